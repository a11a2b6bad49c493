//! Statements that the session answers itself: a transaction that no server knows of yet, and Trunkline's own settings.

use super::Session;
use super::causal::BadToken;
use super::link::Phase;
use super::own_settings::{self, OwnSetting, ReadDefaults, Refused};
use super::respond::Fault;
use super::route::Destination;
use super::transaction::{Prologue, Transaction};
use crate::backend::pipeline::Committed;
use crate::plan::PlannedStatement;
use crate::plan::refusal::{Reason, Refusal};
use crate::sql::class::{Chain, Class, Scope, SetValue};
use crate::wire::answer::{self, Report, Severity, TransactionStatus};

/// What became of a statement that the session may answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// The answer was appended, without ReadyForQuery.
    Answered,
    /// A server must have it.
    Forward,
}

impl PlannedStatement {
    /// It concerns Trunkline's own settings: no server may see it.
    pub(super) fn is_ours(&self) -> bool {
        is_ours(&self.class)
    }
}

pub(super) fn is_ours(class: &Class) -> bool {
    match class {
        Class::Set { name, .. } | Class::Reset(name) | Class::Show(name) => {
            own_settings::is_reserved(name)
        }
        _ => false,
    }
}

impl Fault {
    /// What a failed transaction answers.
    pub(super) fn aborted() -> Fault {
        let message =
            "current transaction is aborted, commands ignored until end of transaction block"
                .to_owned();
        Fault::Postgres {
            sqlstate: "25P02",
            message,
        }
    }

    pub(super) fn no_transaction(command: &str) -> Fault {
        Fault::Postgres {
            sqlstate: "25P01",
            message: format!("{command} can only be used in transaction blocks"),
        }
    }

    pub(super) fn no_portal(name: &[u8]) -> Fault {
        Fault::Postgres {
            sqlstate: "34000",
            message: format!(
                "portal \"{}\" does not exist",
                String::from_utf8_lossy(name)
            ),
        }
    }

    fn no_savepoint(name: &str) -> Fault {
        Fault::Postgres {
            sqlstate: "3B001",
            message: format!("savepoint \"{name}\" does not exist"),
        }
    }

    pub(super) fn ours_in_batch(class: &Class) -> Fault {
        let name = match class {
            Class::Set { name, .. } | Class::Reset(name) | Class::Show(name) => name,
            _ => "trunkline",
        };
        let message =
            format!("{name} cannot be set or shown together with other statements in one message");
        Fault::Refused(Refusal::new(Reason::SettingInBatch, message))
    }
}

impl Session {
    /// Whether a statement of the extended protocol is answered here: as things stand, and without a look at a server.
    pub(super) fn answers(&self, class: &Class) -> bool {
        let in_hand = self.link.as_ref().is_some_and(|link| !link.is_metadata());
        match class {
            Class::Deallocate(Some(name)) => self.prepared.contains_key(name.name.as_bytes()),
            Class::Deallocate(None) | Class::Prepare { .. } => self.owns_names(),
            Class::Listen(_) | Class::Unlisten(_) => self.listens_itself(),
            class if is_ours(class) => true,
            Class::Begin
            | Class::Commit { .. }
            | Class::Rollback { .. }
            | Class::Savepoint(_)
            | Class::RollbackTo(_)
            | Class::Release(_) => {
                self.is_party() || (!in_hand && self.transaction != Transaction::Open)
            }
            Class::Set { .. } | Class::Reset(_) | Class::SetTransaction | Class::SetConstraints => {
                self.is_shared(class)
                    || !in_hand
                        && match self.transaction {
                            Transaction::Begun(_) => !self.has_one_shard(),
                            Transaction::Failed(_) => true,
                            Transaction::Idle | Transaction::Open => false,
                        }
            }
            _ => false,
        }
    }

    /// Every transaction is on this shard, so there is no need to wait for what shows which.
    pub(super) fn has_one_shard(&self) -> bool {
        self.database.catalog().shards.len() == 1
    }

    /// Does a statement that needs no table; appends its answer.
    pub(super) async fn control(
        &mut self,
        class: &Class,
        text: &str,
        out: &mut Vec<u8>,
    ) -> Result<Control, Fault> {
        if is_ours(class) {
            return self.own_setting(class, out).await;
        }
        match std::mem::take(&mut self.transaction) {
            Transaction::Idle => self.outside(class, text, out),
            Transaction::Open => {
                self.transaction = Transaction::Open;
                if self.is_shared(class) {
                    return self.in_party(class, text, out).await;
                }
                Ok(Control::Forward)
            }
            Transaction::Failed(prologue) => self.in_failed(class, prologue, out),
            Transaction::Begun(prologue) => {
                self.transaction = Transaction::Begun(prologue);
                self.in_begun(class, text, out).await
            }
        }
    }

    pub(super) fn check_not_aborted(&self) -> Result<(), Fault> {
        if self.own_status() == TransactionStatus::Failed {
            Err(Fault::aborted())
        } else {
            Ok(())
        }
    }

    /// Outside a transaction block.
    fn outside(&mut self, class: &Class, text: &str, out: &mut Vec<u8>) -> Result<Control, Fault> {
        if self.link.is_some() {
            // In the middle of a batch the server knows best.
            return Ok(Control::Forward);
        }
        match class {
            Class::Begin => {
                self.transaction = Transaction::Begun(Prologue::new(text));
                self.transaction_began = Some(std::time::Instant::now());
                answer::command_complete(out, begin_tag(text));
            }
            Class::Commit { chain: Chain::Yes } => {
                return Err(Fault::no_transaction("COMMIT AND CHAIN"));
            }
            Class::Rollback { chain: Chain::Yes } => {
                return Err(Fault::no_transaction("ROLLBACK AND CHAIN"));
            }
            Class::Commit { .. } | Class::Rollback { .. } => {
                warn(out, "25P01", "there is no transaction in progress");
                answer::command_complete(
                    out,
                    if matches!(class, Class::Commit { .. }) {
                        "COMMIT"
                    } else {
                        "ROLLBACK"
                    },
                );
            }
            Class::Savepoint(_) => return Err(Fault::no_transaction("SAVEPOINT")),
            Class::RollbackTo(_) => return Err(Fault::no_transaction("ROLLBACK TO SAVEPOINT")),
            Class::Release(_) => return Err(Fault::no_transaction("RELEASE SAVEPOINT")),
            _ => return Ok(Control::Forward),
        }
        Ok(Control::Answered)
    }

    /// In a transaction that no server knows of.
    async fn in_begun(
        &mut self,
        class: &Class,
        text: &str,
        out: &mut Vec<u8>,
    ) -> Result<Control, Fault> {
        let one_shard = self.has_one_shard();
        let Transaction::Begun(prologue) = &mut self.transaction else {
            return Ok(Control::Forward);
        };
        match class {
            Class::Set { .. } | Class::Reset(_) | Class::SetTransaction | Class::SetConstraints
                if one_shard =>
            {
                return Ok(Control::Forward);
            }
            Class::Begin => {
                if !Prologue::new(text).cannot_fail() {
                    // It begins nothing, yet its modes count.
                    self.try_in_transaction(text).await?;
                    if let Transaction::Begun(prologue) = &mut self.transaction {
                        prologue.append(text);
                    }
                }
                warn(out, "25001", "there is already a transaction in progress");
                answer::command_complete(out, begin_tag(text));
            }
            Class::Commit { chain } | Class::Rollback { chain } => {
                let committed = if matches!(class, Class::Commit { .. }) {
                    Committed::Yes
                } else {
                    Committed::No
                };
                let next = match chain {
                    Chain::Yes => Transaction::Begun(Prologue::new(prologue.begin())),
                    Chain::No => Transaction::Idle,
                };
                self.begun_ended(committed);
                self.transaction = next;
                answer::command_complete(
                    out,
                    if committed == Committed::Yes {
                        "COMMIT"
                    } else {
                        "ROLLBACK"
                    },
                );
            }
            Class::Savepoint(name) => {
                prologue.savepoint(name, text);
                self.set_savepoint(name);
                answer::command_complete(out, "SAVEPOINT");
            }
            Class::RollbackTo(name) => {
                if !prologue.roll_back_to(name) {
                    return Err(Fault::no_savepoint(name));
                }
                self.back_to_savepoint(name);
                answer::command_complete(out, "ROLLBACK");
            }
            Class::Release(name) => {
                if !prologue.release(name, text) {
                    return Err(Fault::no_savepoint(name));
                }
                self.release_savepoint(name);
                answer::command_complete(out, "RELEASE");
            }
            Class::Set {
                scope: Scope::Local,
                ..
            }
            | Class::SetTransaction
            | Class::SetConstraints => {
                self.try_in_transaction(text).await?;
                if let Transaction::Begun(prologue) = &mut self.transaction {
                    prologue.append(text);
                }
                if let Class::Set { scope, name, value } = class {
                    self.set_done(*scope, name, value);
                }
                answer::command_complete(
                    out,
                    if *class == Class::SetConstraints {
                        "SET CONSTRAINTS"
                    } else {
                        "SET"
                    },
                );
            }
            Class::Set {
                scope: Scope::Session,
                name,
                value,
            } => {
                self.set_ahead(name, value, text).await?;
                answer::command_complete(out, "SET");
            }
            Class::Reset(name) => {
                self.set_ahead(name, &SetValue::Default, text).await?;
                answer::command_complete(out, "RESET");
            }
            _ => return Ok(Control::Forward),
        }
        Ok(Control::Answered)
    }

    /// In a transaction that failed before a server knew of it.
    fn in_failed(
        &mut self,
        class: &Class,
        mut prologue: Prologue,
        out: &mut Vec<u8>,
    ) -> Result<Control, Fault> {
        match class {
            Class::Commit { chain } | Class::Rollback { chain } => {
                self.begun_ended(Committed::No);
                if *chain == Chain::Yes {
                    self.transaction = Transaction::Begun(Prologue::new(prologue.begin()));
                }
                answer::command_complete(out, "ROLLBACK");
                Ok(Control::Answered)
            }
            Class::RollbackTo(name) if prologue.roll_back_to(name) => {
                self.transaction = Transaction::Begun(prologue);
                self.back_to_savepoint(name);
                answer::command_complete(out, "ROLLBACK");
                Ok(Control::Answered)
            }
            Class::RollbackTo(name) => {
                self.transaction = Transaction::Failed(prologue);
                Err(Fault::no_savepoint(name))
            }
            _ => {
                self.transaction = Transaction::Failed(prologue);
                Err(Fault::aborted())
            }
        }
    }

    /// Lets a server judge a statement that counts to the end of the transaction, in a transaction that is rolled back.
    async fn try_in_transaction(&mut self, text: &str) -> Result<(), Fault> {
        let Transaction::Begun(prologue) = &self.transaction else {
            return Ok(());
        };
        let trial = format!("{}{text}\n;", prologue.text());
        self.attach(Destination::Any, Phase::Metadata).await?;
        if self.link.as_ref().is_some_and(|link| !link.is_settled()) {
            // What is owed there is the client's.
            self.leave_metadata().await?;
            self.attach(Destination::Any, Phase::Metadata).await?;
        }
        let Some(link) = &mut self.link else {
            return Ok(());
        };
        let mut judged = link.try_out(&trial, &self.worker).await;
        if judged.is_ok() {
            self.reported_before.get_or_insert(self.reported.clone());
            self.tell_reported();
        }
        if let Some(link) = &mut self.link {
            let rolled_back = link.roll_back(&self.worker).await;
            judged = judged.and(rolled_back);
        }
        self.detach_within_unit();
        judged
    }

    /// Sets something for the whole session ahead of the transaction's first statement: a server judges it now, and the one that
    /// gets the transaction sets it inside, so that it is undone with what it belongs to.
    async fn set_ahead(&mut self, name: &str, value: &SetValue, text: &str) -> Result<(), Fault> {
        self.try_in_transaction(text).await?;
        self.set_done(Scope::Session, name, value);
        let began_with = match value {
            SetValue::Default => self.startup_settings.statement_for(name),
            SetValue::Given { .. } => None,
        };
        if let Transaction::Begun(prologue) = &mut self.transaction {
            prologue.append(began_with.as_deref().unwrap_or(text));
        }
        Ok(())
    }

    /// SET, RESET and SHOW of what no server knows.
    async fn own_setting(&mut self, class: &Class, out: &mut Vec<u8>) -> Result<Control, Fault> {
        self.check_not_aborted()?;
        let catalog = std::sync::Arc::clone(&self.database.catalog());
        match class {
            Class::Set { scope, name, value } => {
                let Some(setting) = own_settings::known(name)? else {
                    return Ok(Control::Forward);
                };
                let values: &[Box<str>] = match value {
                    SetValue::Default => &[],
                    SetValue::Given { values, .. } => values,
                };
                if setting == OwnSetting::Token {
                    self.set_token(values)?;
                } else if *scope == Scope::Local && self.transaction == Transaction::Idle {
                    warn(
                        out,
                        "25P01",
                        "SET LOCAL can only be used in transaction blocks",
                    );
                } else {
                    self.own_settings.set(setting, values, *scope, &catalog)?;
                    if self.transaction == Transaction::Idle {
                        self.own_settings.transaction_ended(true);
                    }
                }
                answer::command_complete(out, "SET");
            }
            Class::Reset(name) => {
                let Some(setting) = own_settings::known(name)? else {
                    return Ok(Control::Forward);
                };
                if setting == OwnSetting::Token {
                    self.causal.forget();
                }
                self.own_settings
                    .set(setting, &[], Scope::Session, &catalog)?;
                if self.transaction == Transaction::Idle {
                    self.own_settings.transaction_ended(true);
                }
                answer::command_complete(out, "RESET");
            }
            Class::Show(name) => {
                let Some(setting) = own_settings::known(name)? else {
                    return Ok(Control::Forward);
                };
                let mut row = Vec::new();
                self.show_setting(setting, &mut row).await?;
                answer::row_description(out, &[name]);
                out.append(&mut row);
            }
            _ => return Ok(Control::Forward),
        }
        Ok(Control::Answered)
    }

    /// Raises the floors of the session's reads. That outlasts the transaction, whatever becomes of it, and RESET ALL.
    fn set_token(&mut self, values: &[Box<str>]) -> Result<(), Fault> {
        let names = self.database.catalog().shards.clone();
        match values {
            // TO DEFAULT
            [] => self.causal.forget(),
            [token] => self
                .causal
                .adopt(token, &names, std::time::Instant::now())
                .map_err(|why| bad_token(token, why))?,
            _ => return Err(bad_token(&values.join(", "), BadToken::Entry)),
        }
        Ok(())
    }

    /// What the session's reads do, unless it says otherwise.
    pub(super) fn read_defaults(&self) -> ReadDefaults {
        ReadDefaults::of(&self.worker.config(), &self.user, &self.database.name)
    }

    /// The row of SHOW, without its description.
    pub(super) async fn show_setting(
        &mut self,
        setting: OwnSetting,
        out: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        let shown = match setting {
            OwnSetting::Token => {
                self.settle_floors().await?;
                let names = self.database.catalog().shards.clone();
                self.causal.token(&names).map_err(|shard| {
                    let name = names.get(shard.index()).map_or("", |name| &**name);
                    Fault::Limit {
                        sqlstate: "55000",
                        message: format!("it is not known yet how far shard \"{name}\" had come at the session's last commit"),
                        hint: Some("Try again."),
                    }
                })?
            }
            setting => self.own_settings.shown(setting, &self.read_defaults()),
        };
        answer::data_row(out, &[Some(&shown)]);
        answer::command_complete(out, "SHOW");
        Ok(())
    }
}

pub(super) fn bad_token(token: &str, why: BadToken) -> Fault {
    // Any text can be meant, of any length.
    const SHOWN: usize = 100;
    let shown: String = token.chars().take(SHOWN).collect();
    let refused = Refused {
        setting: "trunkline.token",
        hint: match why {
            BadToken::TooLong => "It is too long. Give what SHOW trunkline.token has shown.",
            BadToken::Version => {
                "It is of no known version. Give what SHOW trunkline.token has shown."
            }
            BadToken::Entry => "Give what SHOW trunkline.token has shown.",
        },
    };
    refused.fault(&shown)
}

/// The tag of BEGIN in the words the client used.
fn begin_tag(text: &str) -> &'static str {
    if text.len() >= 5 && text.as_bytes()[..5].eq_ignore_ascii_case(b"start") {
        "START TRANSACTION"
    } else {
        "BEGIN"
    }
}

fn warn(out: &mut Vec<u8>, sqlstate: &str, message: &str) {
    answer::notice_response(out, &Report::new(Severity::Warning, sqlstate, message));
}
