//! The class of a statement, found from its first words by our own matcher: what needs no parser.

/// What a statement is, as far as the session must know. Names are folded as Postgres folds them.
#[derive(Clone, Debug, PartialEq)]
pub enum Class {
    /// Nothing but white space and comments.
    Empty,
    /// SELECT, VALUES, TABLE, WITH, INSERT, UPDATE, DELETE, MERGE: read by the parser.
    Data,
    /// BEGIN, START TRANSACTION, with the modes as they were written.
    Begin,
    /// COMMIT, END.
    Commit {
        chain: Chain,
    },
    /// ROLLBACK, ABORT.
    Rollback {
        chain: Chain,
    },
    Savepoint(Box<str>),
    RollbackTo(Box<str>),
    Release(Box<str>),
    /// PREPARE TRANSACTION, COMMIT PREPARED, ROLLBACK PREPARED.
    TwoPhase,
    /// SET [SESSION | LOCAL] name = value (SET name FROM CURRENT is `Unknown`); `SET TIME ZONE x` is `timezone`, `SET NAMES x` is `client_encoding`, SET ROLE is `role`,
    /// SET SESSION AUTHORIZATION is `session_authorization`, SET SESSION CHARACTERISTICS AS TRANSACTION is `session_characteristics`.
    Set {
        scope: Scope,
        name: Box<str>,
        value: SetValue,
    },
    /// SELECT of calls of set_config(name, value, is_local) and nothing else, each name and is_local as literals. Not of a list of quoted names
    /// other than `search_path`, and not of Trunkline's own settings: those are `Data`.
    SetConfig(Box<[ConfigCall]>),
    /// SET TRANSACTION: belongs to the open transaction.
    SetTransaction,
    /// SET CONSTRAINTS: belongs to the open transaction.
    SetConstraints,
    /// RESET name.
    Reset(Box<str>),
    ResetAll,
    /// SHOW name (SHOW ALL is `all`).
    Show(Box<str>),
    /// DECLARE name ... CURSOR {WITH HOLD | WITHOUT HOLD} FOR query; the query's byte range in the statement's text.
    Declare {
        name: Box<str>,
        scroll: Scroll,
        rows: RowFormat,
        hold: Hold,
        query: std::ops::Range<usize>,
    },
    /// FETCH, MOVE; `None`: in a form that is not read.
    Fetch(Option<Motion>),
    /// CLOSE; `None`: likewise.
    CloseCursor(Option<Closing>),
    /// PREPARE name [(types)] AS query; types in lower case as they were written.
    Prepare {
        name: Named,
        types: Vec<Box<str>>,
        query: std::ops::Range<usize>,
    },
    /// EXECUTE name [(arguments)], EXPLAIN EXECUTE, CREATE TABLE ... AS EXECUTE.
    Execute {
        name: Named,
        arguments: Vec<Argument>,
        executes: Executes,
    },
    /// DEALLOCATE name; `None` is ALL.
    Deallocate(Option<Named>),
    Discard(Discard),
    /// LISTEN channel.
    Listen(Box<str>),
    /// UNLISTEN channel; `None` is all.
    Unlisten(Option<Box<str>>),
    Notify,
    /// LOCK TABLE: belongs to the open transaction.
    Lock,
    /// EXPLAIN [options] query; the query's byte range. (EXPLAIN of DECLARE or CREATE is `Unknown`.)
    Explain {
        query: std::ops::Range<usize>,
    },
    /// COPY.
    Copy(Copy),
    /// CREATE, ALTER, DROP, TRUNCATE, GRANT, REVOKE, COMMENT, REINDEX, REFRESH, SECURITY LABEL, IMPORT FOREIGN SCHEMA, REASSIGN ...
    Ddl(Ddl),
    /// VACUUM, ANALYZE, CLUSTER, CHECKPOINT: work on a node rather than on data.
    Maintenance,
    /// CALL.
    Call,
    /// DO.
    Do,
    /// LOAD.
    Load,
    /// First words that are no Postgres statement: sent nowhere without a hint unless the server may judge it safely (a syntax error).
    Unknown,
}

/// set_config(name, value, is_local)
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigCall {
    pub scope: Scope,
    pub name: Box<str>,
    pub value: ConfigValue,
}

/// The value in set_config.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigValue {
    /// NULL: the default.
    Null,
    Text(Box<str>),
    /// `$n`, n from 1.
    Param(u16),
}

/// A name with its place in the message's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    pub name: Box<str>,
    pub range: std::ops::Range<usize>,
}

/// An argument of EXECUTE, as a parameter in text form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Argument {
    Null,
    /// The value of a string.
    Text(Box<str>),
    /// A whole number, as its cast to text writes it.
    Number(Box<str>),
    /// Any other expression.
    Unknown,
}

/// What is done with the rows of EXECUTE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Executes {
    Plainly,
    /// EXPLAIN [options] EXECUTE.
    Explained,
    /// CREATE TABLE ... AS EXECUTE.
    Creating(Ddl),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chain {
    No,
    /// AND CHAIN: a new transaction begins at once.
    Yes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Session,
    Local,
}

/// Whether a cursor may go back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scroll {
    /// As its plan has it.
    Unsaid,
    No,
    Yes,
}

/// How a cursor's rows are sent in the simple protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowFormat {
    Text,
    Binary,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Motion {
    pub verb: Verb,
    pub direction: Direction,
    pub cursor: Box<str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Fetch,
    /// Without giving rows.
    Move,
}

/// Less than nothing is the other way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Forward(i64),
    ForwardAll,
    BackwardAll,
    Absolute(i64),
    Relative(i64),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Closing {
    All,
    One(Box<str>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    Without,
    With,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discard {
    All,
    Plans,
    Sequences,
    Temp,
}

/// What follows `SET name =`.
#[derive(Clone, Debug, PartialEq)]
pub enum SetValue {
    /// `TO DEFAULT`: the same as RESET.
    Default,
    /// The value's tokens as the client wrote them, ready to follow `SET name = ` again (a list keeps its commas),
    /// and the list of plain values: unquoted, identifiers folded.
    Given {
        source: Box<str>,
        values: Vec<Box<str>>,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub struct Copy {
    pub direction: CopyDirection,
    pub source: CopySource,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyDirection {
    /// COPY ... FROM STDIN.
    FromClient,
    /// COPY ... TO STDOUT.
    ToClient,
    /// FROM or TO a file or program of the server.
    Server,
}

#[derive(Clone, Debug, PartialEq)]
pub enum CopySource {
    Table {
        schema: Option<Box<str>>,
        name: Box<str>,
    },
    /// COPY (query) TO: the query's byte range.
    Query(std::ops::Range<usize>),
}

/// What a definition statement does to what a connection or the catalog remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ddl {
    /// CREATE TEMPORARY ... : lives in one server connection only.
    Temporary,
    /// CREATE/DROP DATABASE, TABLESPACE, ROLE, SYSTEM ...: not inside one database's schema.
    Global,
    /// TRUNCATE.
    Truncate,
    /// Anything else that may change tables, columns, views or functions.
    Schema,
}
