//! Plans by shape of text: the hot path of every simple query.
//!
//! Most texts fit a template (`template.rs`). Any other is brought to its normal form (literals replaced by marks), hashed and looked up; the found entry's normal form is compared, so a
//! collision of hashes costs a comparison, never a wrong plan. The search path is part of the key. One cache serves one database of one
//! worker: no locks. A catalog of another epoch empties it. Least recently used entries make room (CLOCK: a hand goes around and takes the
//! first entry that was not used since it came by).
//!
//! **Offsets.** Texts of one shape differ in the lengths of their literals, so all offsets in a [`Planned`] that comes from here
//! (`PlannedStatement::range`, `Refusal::position`) are offsets *of the normal form*. [`Planned::range_of`] and [`Planned::position_of`]
//! translate them for the text at hand. Ranges inside a [`Class`](crate::sql::class::Class) stay as they are: such a text is only cached when it has no literals.
//!
//! Long texts are not cached. Nothing that is cached quotes a literal, so no client sees another one's data.

use std::mem::size_of;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use hashbrown::HashTable;
use xxhash_rust::xxh3::{Xxh3, xxh3_64_with_seed};

use crate::catalog::{Catalog, Epoch, SearchPath};
use crate::sql::class::{Class, Closing, ConfigValue, Copy, CopySource, SetValue};
use crate::sql::normalise::{Literal, NotNormalisable, from_normal, normalise, to_normal};
use crate::sql::{self, SqlError};

use super::planner::may_have_several_keys;
use super::refusal::{Reason, Refusal};
use super::settings;
use super::spread;
use super::template::Templates;
use super::{
    KeyOperand, KeySet, KeyTuple, Leaves, Plan, Planned, PlannedStatement, Spread, Target,
};

/// What an allocator adds to a piece.
const OVERHEAD: usize = 16;

/// Longer texts are planned each time.
const LONGEST_TEXT: usize = 16 * 1024;

/// Why a text has no plan at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unplannable {
    /// Not to be sent to any server, because its bytes may mean something else there.
    #[error("the text of the statement is not valid UTF-8 at byte {position}")]
    NotUtf8 { position: usize },
    #[error(transparent)]
    Sql(#[from] SqlError),
}

impl Unplannable {
    pub fn sqlstate(&self) -> &'static str {
        match self {
            Unplannable::NotUtf8 { .. } => Reason::NotUtf8.kind().sqlstate,
            Unplannable::Sql(error) => error.sqlstate(),
        }
    }
}

/// What a cache did since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub hits: u64,
    pub misses: u64,
    pub evictions: u64,
    /// Now, not since.
    pub entries: usize,
    /// Now, not since.
    pub bytes: usize,
}

pub struct PlanCache {
    /// Most bytes of all entries.
    limit: usize,
    /// Chosen at random, so that nobody can prepare texts that collide.
    seed: u64,
    epoch: Option<Epoch>,
    table: HashTable<usize>,
    /// Entries by place; free places are `None` and listed in `free`.
    slots: Vec<Option<Entry>>,
    free: Vec<usize>,
    hand: usize,
    counters: Counters,
    templates: Templates,
    normal: Vec<u8>,
    /// The search path asked for last, and its hash.
    path: Option<(SearchPath, u64)>,
}

struct Entry {
    hash: u64,
    normal: Box<[u8]>,
    path: SearchPath,
    planned: Rc<Planned>,
    bytes: usize,
    used: bool,
}

impl PlanCache {
    /// A cache of at most `limit` bytes.
    pub fn new(limit: usize) -> PlanCache {
        PlanCache {
            limit,
            seed: std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), limit),
            epoch: None,
            table: HashTable::new(),
            slots: Vec::new(),
            free: Vec::new(),
            hand: 0,
            counters: Counters::default(),
            templates: Templates::new(),
            normal: Vec::new(),
            path: None,
        }
    }

    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// The plans of a text, and its literals.
    pub fn plan(
        &mut self,
        text: &[u8],
        search_path: &SearchPath,
        catalog: &Arc<Catalog>,
        literals: &mut Vec<Literal>,
    ) -> Result<Rc<Planned>, Unplannable> {
        if self.epoch != Some(catalog.epoch) {
            self.clear();
            self.epoch = Some(catalog.epoch);
        }
        if let Some(planned) = self.templates.find(text, search_path, literals) {
            self.counters.hits += 1;
            return Ok(planned);
        }
        let mut normal = std::mem::take(&mut self.normal);
        let result = self.plan_normal(text, &mut normal, search_path, catalog, literals);
        self.normal = normal;
        result
    }

    fn plan_normal(
        &mut self,
        text: &[u8],
        normal: &mut Vec<u8>,
        search_path: &SearchPath,
        catalog: &Catalog,
        literals: &mut Vec<Literal>,
    ) -> Result<Rc<Planned>, Unplannable> {
        // Also on a hit: whether a text is refused must not depend on what was planned before.
        if !text.is_ascii()
            && let Err(error) = std::str::from_utf8(text)
        {
            return Err(Unplannable::NotUtf8 {
                position: error.valid_up_to(),
            });
        }
        normalise(text, normal, literals).map_err(|error| match error {
            NotNormalisable::NotUtf8 { position } => Unplannable::NotUtf8 { position },
            NotNormalisable::Unreadable(error) => Unplannable::Sql(error.into()),
        })?;
        if normal.len() > LONGEST_TEXT {
            self.counters.misses += 1;
            return plan_text(text, literals, catalog, search_path).map(Rc::new);
        }
        let hash = xxh3_64_with_seed(normal, self.hash_of_path(search_path));
        if let Some(planned) = self.find(hash, normal, search_path) {
            self.counters.hits += 1;
            self.templates.offer(text, literals, search_path, &planned);
            return Ok(planned);
        }
        self.counters.misses += 1;
        let planned = Rc::new(plan_text(text, literals, catalog, search_path)?);
        if is_cacheable(&planned, literals) && holds_for_shape(&planned, text, literals) {
            self.insert(hash, normal, search_path, &planned);
            self.templates.offer(text, literals, search_path, &planned);
        }
        Ok(planned)
    }

    fn hash_of_path(&mut self, search_path: &SearchPath) -> u64 {
        if let Some((known, hash)) = &self.path
            && Arc::ptr_eq(&known.0, &search_path.0)
        {
            return *hash;
        }
        let mut hasher = Xxh3::with_seed(self.seed);
        for schema in &*search_path.0 {
            hasher.update(&schema.len().to_le_bytes());
            hasher.update(schema.as_bytes());
        }
        let hash = hasher.digest();
        self.path = Some((search_path.clone(), hash));
        hash
    }

    fn find(&mut self, hash: u64, normal: &[u8], search_path: &SearchPath) -> Option<Rc<Planned>> {
        let slots = &self.slots;
        let place = *self.table.find(hash, |place| {
            slots[*place].as_ref().is_some_and(|entry| {
                entry.hash == hash
                    && *entry.normal == *normal
                    && same_path(&entry.path, search_path)
            })
        })?;
        let entry = self.slots[place].as_mut()?;
        entry.used = true;
        Some(entry.planned.clone())
    }

    fn insert(
        &mut self,
        hash: u64,
        normal: &[u8],
        search_path: &SearchPath,
        planned: &Rc<Planned>,
    ) {
        // The slots and the table have up to twice the room that they need.
        let bytes = normal.len()
            + OVERHEAD
            + planned.bytes()
            + 2 * size_of::<Option<Entry>>()
            + 4 * size_of::<usize>();
        if bytes > self.limit {
            return;
        }
        while self.counters.bytes + bytes > self.limit {
            self.evict_one();
        }
        let entry = Entry {
            hash,
            normal: normal.into(),
            path: search_path.clone(),
            planned: planned.clone(),
            bytes,
            used: false,
        };
        let place = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[place] = Some(entry);
        let slots = &self.slots;
        self.table.insert_unique(hash, place, |place| {
            slots[*place].as_ref().map_or(0, |entry| entry.hash)
        });
        self.counters.entries += 1;
        self.counters.bytes += bytes;
    }

    /// Takes out the first entry at the hand that was not used since the hand came by. There is one: bytes are only counted for entries.
    fn evict_one(&mut self) {
        loop {
            self.hand = if self.hand + 1 < self.slots.len() {
                self.hand + 1
            } else {
                0
            };
            let place = self.hand;
            match &mut self.slots[place] {
                None => {}
                Some(entry) if entry.used => entry.used = false,
                Some(entry) => {
                    let (hash, bytes) = (entry.hash, entry.bytes);
                    if let Ok(found) = self.table.find_entry(hash, |candidate| *candidate == place)
                    {
                        found.remove();
                    }
                    self.slots[place] = None;
                    self.free.push(place);
                    self.counters.entries -= 1;
                    self.counters.bytes -= bytes;
                    self.counters.evictions += 1;
                    return;
                }
            }
        }
    }

    fn clear(&mut self) {
        self.table.clear();
        self.slots.clear();
        self.free.clear();
        self.hand = 0;
        self.templates.clear();
        self.counters.entries = 0;
        self.counters.bytes = 0;
    }
}

pub(super) fn same_path(one: &SearchPath, other: &SearchPath) -> bool {
    Arc::ptr_eq(&one.0, &other.0) || one == other
}

fn plan_text(
    text: &[u8],
    literals: &[Literal],
    catalog: &Catalog,
    search_path: &SearchPath,
) -> Result<Planned, Unplannable> {
    let text = std::str::from_utf8(text).map_err(|error| Unplannable::NotUtf8 {
        position: error.valid_up_to(),
    })?;
    let statements = sql::read(text)?;
    let mut planned = super::plan(text, &statements, catalog, search_path);
    planned.statements.shrink_to_fit();
    for statement in &mut planned.statements {
        statement.range =
            to_normal(statement.range.start, literals)..to_normal(statement.range.end, literals);
        if let Err(refusal) = &mut statement.plan {
            refusal.position = refusal
                .position
                .map(|position| to_normal(position, literals));
        }
        if let Some(spread) = statement.spread.as_mut().and_then(Rc::get_mut) {
            spread.move_places(&|offset| to_normal(offset, literals));
        }
    }
    Ok(planned)
}

fn is_cacheable(planned: &Planned, literals: &[Literal]) -> bool {
    // Other classes may hold values and offsets of the text at hand (SET x = 5).
    let is_same_for_all_literals = |statement: &PlannedStatement| {
        matches!(
            statement.class,
            Class::Data
                | Class::Begin
                | Class::Commit { .. }
                | Class::Rollback { .. }
                | Class::Savepoint(_)
                | Class::RollbackTo(_)
                | Class::Release(_)
        )
    };
    literals.is_empty() || planned.statements.iter().all(is_same_for_all_literals)
}

/// Whether the plans are those of every text of this shape. Those of several shards may go by what literals are: `ORDER BY 1` is not `ORDER BY 2`.
fn holds_for_shape(planned: &Planned, text: &[u8], literals: &[Literal]) -> bool {
    let goes_by_literals = |statement: &PlannedStatement| {
        if settings::goes_by_literals(&statement.leaves) {
            return true;
        }
        if let Some(numbered) = statement.numbered() {
            return !numbered.holds_for_shape();
        }
        (statement.plan.is_err() || may_have_several_keys(&statement.plan))
            && std::str::from_utf8(text).is_ok_and(|text| {
                spread::goes_by_literals(text, Planned::range_of(statement, literals))
            })
    };
    literals.is_empty() || !planned.statements.iter().any(goes_by_literals)
}

impl Planned {
    /// A statement's bytes in the text at hand, whose literals these are.
    pub fn range_of(statement: &PlannedStatement, literals: &[Literal]) -> Range<usize> {
        from_normal(statement.range.start, literals)..from_normal(statement.range.end, literals)
    }

    /// A refusal's place in the text at hand, whose literals these are.
    pub fn position_of(refusal: &Refusal, literals: &[Literal]) -> Option<usize> {
        refusal
            .position
            .map(|position| from_normal(position, literals))
    }

    /// Its size in memory, near enough for a limit.
    fn bytes(&self) -> usize {
        size_of::<Planned>()
            + self.statements.capacity() * size_of::<PlannedStatement>()
            + 2 * OVERHEAD
            + self.statements.iter().map(bytes_beside).sum::<usize>()
    }
}

/// What a statement has on the heap.
fn bytes_beside(statement: &PlannedStatement) -> usize {
    let plan = match &statement.plan {
        Ok(Plan::Relay(Target::Keys { sets, .. })) => {
            sets.capacity() * size_of::<KeySet>()
                + OVERHEAD
                + sets.iter().map(bytes_of_set).sum::<usize>()
        }
        Ok(Plan::Session | Plan::Relay(Target::Any | Target::Shard(_))) => 0,
        Err(refusal) => refusal.message.capacity(),
    };
    let spread = statement
        .spread
        .as_ref()
        .map_or(0, |spread| size_of::<Spread>() + OVERHEAD + spread.bytes());
    bytes_of_class(&statement.class)
        + plan
        + spread
        + statement.leaves.capacity() * size_of::<Leaves>()
}

fn bytes_of_set(set: &KeySet) -> usize {
    let values = |tuple: &KeyTuple| tuple.0.capacity() * size_of::<KeyOperand>() + OVERHEAD;
    set.tuples.capacity() * size_of::<KeyTuple>()
        + OVERHEAD
        + set.tuples.iter().map(values).sum::<usize>()
}

fn bytes_of_class(class: &Class) -> usize {
    match class {
        Class::Set { name, value, .. } => {
            name.len()
                + match value {
                    SetValue::Default => 0,
                    SetValue::Given { source, values } => {
                        source.len()
                            + values
                                .iter()
                                .map(|value| size_of::<Box<str>>() + value.len())
                                .sum::<usize>()
                    }
                }
        }
        Class::Listen(name)
        | Class::Unlisten(Some(name))
        | Class::Savepoint(name)
        | Class::RollbackTo(name)
        | Class::Release(name)
        | Class::Reset(name)
        | Class::Show(name) => name.len(),
        Class::Prepare { name, types, .. } => {
            let texts: usize = types.iter().map(|name| name.len()).sum();
            name.name.len() + size_of_val(&types[..]) + texts
        }
        Class::Execute {
            name, arguments, ..
        } => name.name.len() + size_of_val(&arguments[..]),
        Class::Deallocate(Some(name)) => name.name.len(),
        Class::Declare { name, .. } => name.len(),
        Class::Fetch(Some(motion)) => motion.cursor.len(),
        Class::CloseCursor(Some(Closing::One(name))) => name.len(),
        Class::SetConfig(calls) => {
            let texts = calls.iter().map(|call| {
                call.name.len()
                    + match &call.value {
                        ConfigValue::Text(value) => value.len(),
                        ConfigValue::Null | ConfigValue::Param(_) => 0,
                    }
            });
            size_of_val(&calls[..]) + texts.sum::<usize>()
        }
        Class::Copy(Copy {
            source: CopySource::Table { schema, name },
            ..
        }) => name.len() + schema.as_ref().map_or(0, |schema| schema.len()),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::bind::{Bound, Values, bind};
    use crate::plan::golden::{cluster, search_path};
    use crate::plan::parameters::Parameters;
    use crate::sharding::ShardId;

    struct Worker {
        cache: PlanCache,
        catalog: Arc<Catalog>,
        path: SearchPath,
        literals: Vec<Literal>,
    }

    impl Worker {
        fn new(limit: usize) -> Worker {
            Worker {
                cache: PlanCache::new(limit),
                catalog: Arc::new(cluster(4)),
                path: search_path(&["public"]),
                literals: Vec::new(),
            }
        }

        fn plan(&mut self, text: &str) -> Rc<Planned> {
            self.cache
                .plan(
                    text.as_bytes(),
                    &self.path,
                    &self.catalog,
                    &mut self.literals,
                )
                .expect("it has a plan")
        }

        fn shard(&mut self, text: &str) -> Bound {
            let planned = self.plan(text);
            let Ok(Plan::Relay(target)) = &planned.statements[0].plan else {
                panic!("{planned:?}")
            };
            let values = Values {
                text: text.as_bytes(),
                literals: &self.literals,
                parameters: &Parameters::NONE,
                passage: crate::plan::Passage::Through,
            };
            bind(target, &self.catalog, &values).expect("it is bound")
        }
    }

    const ROOM: usize = 1 << 20;

    #[test]
    fn texts_that_differ_in_literals_share_a_plan_and_not_a_shard() {
        let mut worker = Worker::new(ROOM);
        assert_eq!(
            worker.shard("SELECT * FROM customers WHERE customer_id = 5"),
            Bound::Shard(ShardId(1))
        );
        assert_eq!(
            worker.shard("SELECT * FROM customers WHERE customer_id = 777"),
            Bound::Shard(ShardId(3))
        );
        let Counters {
            hits,
            misses,
            entries,
            ..
        } = worker.cache.counters();
        assert_eq!((hits, misses, entries), (1, 1, 1));
        // Another kind of literal is another shape.
        worker.shard("SELECT * FROM customers WHERE customer_id = '5'");
        assert_eq!(worker.cache.counters().misses, 2);
    }

    #[test]
    fn search_path_and_hints_are_part_of_the_key() {
        let mut worker = Worker::new(ROOM);
        let text = "SELECT * FROM customers WHERE customer_id = 5";
        assert_eq!(worker.shard(text), Bound::Shard(ShardId(1)));
        worker.path = search_path(&["app", "public"]);
        assert_eq!(worker.shard(text), Bound::Shard(ShardId(0)));
        worker.path = search_path(&["public"]);
        assert_eq!(worker.shard(text), Bound::Shard(ShardId(1)));
        assert_eq!(
            worker.cache.counters().hits,
            1,
            "an equal path at another address is the same path"
        );
        assert_eq!(
            worker.shard(&format!("/* trunkline: shard=s3 */ {text}")),
            Bound::Shard(ShardId(2))
        );
        assert_eq!(
            worker.shard(&format!("/* trunkline: shard=s4 */ {text}")),
            Bound::Shard(ShardId(3))
        );
    }

    #[test]
    fn another_epoch_empties_the_cache() {
        let mut worker = Worker::new(ROOM);
        worker.plan("SELECT 1");
        let mut catalog = cluster(1);
        catalog.epoch = Epoch(2);
        worker.catalog = Arc::new(catalog);
        assert_eq!(worker.shard("SELECT 1"), Bound::Shard(ShardId(0)));
        assert_eq!(worker.cache.counters().hits, 0);
        assert_eq!(worker.cache.counters().entries, 1);
    }

    #[test]
    fn offsets_fit_the_text_at_hand() {
        let mut worker = Worker::new(ROOM);
        for text in [
            "SELECT 1; SELECT '2', 3",
            "SELECT 100000; SELECT 'two', 30",
            "SELECT 7; SELECT '', 9",
        ] {
            let planned = worker.plan(text);
            let pieces: Vec<_> = planned
                .statements
                .iter()
                .map(|statement| &text[Planned::range_of(statement, &worker.literals)])
                .collect();
            assert_eq!(pieces, text.split("; ").collect::<Vec<_>>());
        }
        assert_eq!(worker.cache.counters().hits, 2);
        for text in [
            "SELECT 'a', xmlelement(name foo) FROM customers",
            "SELECT 'abcdef', xmlelement(name foo) FROM customers",
        ] {
            let planned = worker.plan(text);
            let refusal = planned.statements[0]
                .plan
                .as_ref()
                .expect_err("it cannot be read");
            assert_eq!(
                Planned::position_of(refusal, &worker.literals),
                text.find("foo")
            );
        }
        assert_eq!(worker.cache.counters().hits, 3);
    }

    #[test]
    fn a_whole_transaction_in_one_message_is_kept() {
        let mut worker = Worker::new(ROOM);
        worker.plan("BEGIN; INSERT INTO customers VALUES (5); COMMIT");
        let text = "BEGIN; INSERT INTO customers VALUES (55555); COMMIT";
        let planned = worker.plan(text);
        assert_eq!(worker.cache.counters().hits, 1);
        assert_eq!(
            &text[Planned::range_of(&planned.statements[2], &worker.literals)],
            "COMMIT"
        );
    }

    #[test]
    fn classes_that_hold_offsets_are_planned_again() {
        let mut worker = Worker::new(ROOM);
        for text in [
            "DECLARE c CURSOR FOR SELECT 1, 2",
            "DECLARE c CURSOR FOR SELECT 100, 200",
        ] {
            let planned = worker.plan(text);
            let Class::Declare { query, .. } = &planned.statements[0].class else {
                panic!("{planned:?}")
            };
            assert!(text[query.clone()].starts_with("SELECT 1"), "{query:?}");
            assert_eq!(query.end, text.len());
        }
    }

    #[test]
    fn bytes_stay_below_the_limit_and_used_entries_stay() {
        let mut worker = Worker::new(20_000);
        let kept = "SELECT 1 AS kept";
        worker.plan(kept);
        for number in 0..1000 {
            worker.plan(&format!("SELECT 1 AS column_{number}"));
            let hits = worker.cache.counters().hits;
            worker.plan(kept);
            assert_eq!(worker.cache.counters().hits, hits + 1, "after {number}");
            assert!(worker.cache.counters().bytes <= 20_000);
        }
        let Counters {
            entries, evictions, ..
        } = worker.cache.counters();
        assert!(
            entries > 10 && evictions > 900,
            "{entries} entries, {evictions} evictions"
        );
        assert_eq!(worker.cache.slots.iter().flatten().count(), entries);
        assert_eq!(worker.cache.table.len(), entries);
    }

    #[test]
    fn long_texts_are_planned_and_not_kept() {
        let mut worker = Worker::new(ROOM);
        let text = format!(
            "SELECT 1 AS {} FROM customers WHERE customer_id = 5",
            "x".repeat(LONGEST_TEXT)
        );
        assert_eq!(worker.shard(&text), Bound::Shard(ShardId(1)));
        assert_eq!(worker.cache.counters().entries, 0);
    }

    #[test]
    fn text_that_is_not_utf8_has_no_plan() {
        let mut worker = Worker::new(ROOM);
        for text in [
            &b"SELECT '\xff'"[..],
            b"SELECT '\xc3'",
            b"SELECT \xf5 FROM customers",
        ] {
            let result =
                worker
                    .cache
                    .plan(text, &worker.path, &worker.catalog, &mut worker.literals);
            let error = result.expect_err("it is refused");
            assert!(matches!(error, Unplannable::NotUtf8 { .. }), "{error:?}");
            assert_eq!(error.sqlstate(), "22021");
        }
    }

    #[test]
    fn text_that_is_not_utf8_is_refused_even_when_its_shape_is_known() {
        let mut worker = Worker::new(ROOM);
        worker.plan("SELECT * FROM pages WHERE slug = 'a'");
        let text = b"SELECT * FROM pages WHERE slug = '\xc3'";
        let result = worker
            .cache
            .plan(text, &worker.path, &worker.catalog, &mut worker.literals);
        assert_eq!(
            result.expect_err("it is refused"),
            Unplannable::NotUtf8 { position: 34 }
        );
    }
}
