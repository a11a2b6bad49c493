//! What a planner may know of one SELECT, INSERT, UPDATE, DELETE or MERGE: owned facts, no syntax tree.
//!
//! Soundness rule: a fact is recorded only when it holds for every row concerned; what is not understood is recorded as
//! unknown (an `Operand::Unknown`, a `Doubt`), never left out. So a planner may trust what is here and must refuse on doubt.

/// All facts of one data statement. `blocks[0]` is the outermost; every block comes before those inside it.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Facts {
    pub blocks: Vec<Block>,
    /// Every INSERT in the statement, data-modifying CTEs included.
    pub inserts: Vec<Insert>,
    /// UPDATE ... SET column lists (the outer statement, CTEs, ON CONFLICT DO UPDATE): may the key change?
    pub assignments: Vec<Assignment>,
    /// MERGE, when it is the statement itself.
    pub merge: Option<Merge>,
    /// Functions called anywhere, once each, folded; `current_user` and its like too. Not those with a syntax of their own that read
    /// nothing but their arguments (EXTRACT, POSITION, SUBSTRING, TRIM, OVERLAY).
    pub functions: Vec<Name>,
    /// FOR UPDATE, NO KEY UPDATE, SHARE or KEY SHARE appears anywhere.
    pub locking: bool,
    /// What keeps this statement from being proven to live on one shard, whatever its predicates.
    pub doubts: Vec<Doubt>,
    /// What the statement leaves behind in its server connection.
    pub leaves: Vec<Leaves>,
}

/// A possibly schema-qualified name, folded and cut as Postgres does (ASCII lower case unless quoted, 63 bytes).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Name {
    pub schema: Option<Box<str>>,
    pub name: Box<str>,
}

/// One query block: a SELECT, or the target-and-sources of UPDATE, DELETE and MERGE.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Block {
    /// The block around this one whose columns this one can see (correlated subquery, LATERAL). A derived table or CTE sees what the
    /// query it stands in sees from outside, so `None` at the top.
    pub parent: Option<usize>,
    pub relations: Vec<Relation>,
    /// Conditions known as top-level conjuncts of WHERE or a join's ON.
    pub conjuncts: Vec<Conjunct>,
    /// For each output column of a SELECT block, what it is when that is a plain column, literal or parameter. Ends before a wildcard:
    /// the columns from there on are not known. A column that a join or grouping set may turn into NULL is `Unknown`.
    pub output: Vec<Operand>,
}

/// One table (or something table-like) in FROM, or the target of a write.
#[derive(Clone, Debug, PartialEq)]
pub struct Relation {
    pub source: Source,
    /// The name that columns are qualified with: the alias, else the table's own name.
    pub alias: Box<str>,
    pub access: Access,
    /// Indexes into the block's `conjuncts`: those that hold for every row of this relation that can matter to the result
    /// (an outer join's ON does not restrict its preserved side; see `parse/from.rs` for the proof).
    pub usable: Vec<usize>,
    pub presence: Presence,
}

/// Whether each row of the block's joins has a row of the relation in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    Always,
    /// An outer join may have NULL in place of its columns.
    Optional,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    Table(Name),
    /// The name of a WITH query in scope: not a table.
    Cte(Box<str>),
    /// A subquery in FROM: its block (the first of its set operation).
    Derived,
    /// A function, VALUES, JSON_TABLE, UNNEST ... in FROM.
    Function,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    /// Target of INSERT, UPDATE, DELETE or MERGE.
    Write,
}

/// A reference to a column as written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ColumnRef {
    /// Alias or table name before the dot (a schema before that is dropped).
    pub qualifier: Option<Box<str>>,
    pub column: Box<str>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Conjunct {
    /// `column = operand` (either order, the column without a cast). The operand is a literal, a parameter or NULL.
    Equal(ColumnRef, Operand),
    /// `column IN (..)`, `column = ANY (ARRAY[..])`, `column = a OR column = b`: one of these.
    In(ColumnRef, Vec<Operand>),
    /// `column = ANY ($n)` or `= ANY ('{..}')`: one of the elements of an array operand.
    AnyOf(ColumnRef, Operand),
    /// `a.x = b.y`
    Same(ColumnRef, ColumnRef),
    /// JOIN ... USING (column): the indexes of the relations on the left and on the right.
    Using {
        column: Box<str>,
        left: Vec<usize>,
        right: Vec<usize>,
    },
}

/// One side of a comparison, or a value to be inserted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Operand {
    /// The n-th literal of the statement's text, from 0, in the numbering of `normalise.rs`.
    Literal {
        slot: usize,
        negative: bool,
        cast: Option<Cast>,
    },
    /// `$n`, n from 1.
    Param {
        number: u16,
        cast: Option<Cast>,
    },
    /// TRUE/FALSE are `Unknown`; NULL is told apart because a NULL key has its own refusal.
    Null,
    /// DEFAULT in VALUES.
    Default,
    Column(ColumnRef),
    /// Any other expression.
    Unknown,
}

/// An explicit cast around a literal or parameter, folded to its lower-case base type name as Postgres names it:
/// `int2 int4 int8 text varchar bpchar uuid date timestamp timestamptz numeric bytea`, with `[]` behind for arrays; anything else as written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cast(pub Box<str>);

#[derive(Clone, Debug, PartialEq)]
pub struct Insert {
    pub table: Name,
    /// `None`: no column list, the table's own order counts.
    pub columns: Option<Vec<Box<str>>>,
    pub source: InsertSource,
}

#[derive(Clone, Debug, PartialEq)]
pub enum InsertSource {
    /// One vector a row.
    Values(Vec<Vec<Operand>>),
    /// INSERT ... SELECT: the block whose output is inserted; `None` when it is not one plain block (a set operation).
    Select(Option<usize>),
    DefaultValues,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Assignment {
    pub table: Name,
    /// Columns that are assigned, folded.
    pub columns: Vec<Box<str>>,
    /// What each of them gets.
    pub values: Vec<Operand>,
}

/// What MERGE has beside the relations of the outermost block: its target, the first of them, and its source. They are joined ON its condition;
/// a side of which it looks at rows without a partner is kept as by an outer join.
#[derive(Clone, Debug, PartialEq)]
pub struct Merge {
    pub unmatched: Unmatched,
    /// The source, when it is one subquery whose columns can be told.
    pub derived: Option<Derived>,
    /// INSERT actions: one row each, whose columns are the source's.
    pub inserts: Vec<Insert>,
}

/// For which rows without a partner MERGE has an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmatched {
    Nothing,
    /// WHEN NOT MATCHED \[BY TARGET\].
    Source,
    /// WHEN NOT MATCHED BY SOURCE.
    Target,
    Both,
}

/// A subquery that MERGE reads its rows from.
#[derive(Clone, Debug, PartialEq)]
pub struct Derived {
    /// Its place among the relations of the outermost block.
    pub relation: usize,
    /// The block of its query: one SELECT without grouping sets, or one row of VALUES.
    pub block: usize,
    pub columns: DerivedColumns,
}

#[derive(Clone, Debug, PartialEq)]
pub enum DerivedColumns {
    /// `SELECT *`: those of its block's relations, by their own names.
    All,
    /// The names of its block's output, as far as they are known.
    Named(Vec<Option<Box<str>>>),
}

/// Why a statement cannot be proven to stay on one shard, whatever its predicates say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// MERGE in WITH.
    Merge,
    /// NATURAL JOIN, or another form whose meaning needs the catalog.
    Natural,
    /// A construct whose meaning is not followed; the text names it. Its tables are recorded all the same.
    Unread(Box<str>),
    /// SELECT INTO creates a table.
    SelectInto,
}

impl Doubt {
    /// An alias gives a table's columns other names.
    pub const RENAMED_COLUMNS: &'static str = "an alias with column names";
    /// An alias gives a join's tables another name.
    pub const RENAMED_JOIN: &'static str = "an alias on a join";
    /// What [`Doubt::Unread`] says of names only: all tables and conditions are read as they are.
    pub const NAMES: [&'static str; 2] = [Doubt::RENAMED_COLUMNS, Doubt::RENAMED_JOIN];
}

/// State that stays in a server connection after the statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaves {
    /// SELECT ... INTO TEMP.
    TemporaryTable,
    /// pg_advisory_lock and its family without `xact`.
    AdvisoryLock,
    /// pg_advisory_unlock and its family: may end what AdvisoryLock began.
    AdvisoryUnlock,
    /// set_config(.., .., false) or with a flag not known as true.
    Setting,
    /// set_config(.., .., true), which is over with the transaction.
    LocalSetting,
    /// A function that may set or take something unseen. Only a planner says so, who knows the catalog.
    Unseen,
    /// It asks for what `nextval` gave last in the connection: currval, lastval, or what may run them. Only a planner says so.
    LastValue,
    /// It may set a sequence to another number: setval, RESTART. Only a planner says so.
    SetsSequence,
    /// pg_notify. Only a planner says so, as of the next.
    Notification,
    /// pg_export_snapshot.
    ExportedSnapshot,
    /// lo_open and its family: descriptors live to the end of the transaction (no pin outside one).
    LargeObject,
}
