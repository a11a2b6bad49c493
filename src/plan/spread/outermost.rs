//! The outermost block of a SELECT whose joins' rows are each on one shard: what its clauses make of them, shard by shard.
//!
//! * *Rows*: without aggregates, DISTINCT and windows, or when each group, each distinct row and each window's partition holds one key only
//!   (its list holds the anchor's key columns), all of it happens on the shards: their rows are the rows of the whole. ORDER BY becomes a merge.
//! * *Distinct rows* that may come from several shards are folded into one.
//! * *Groups* whose parts are on several shards are folded, when each aggregate adds up.
//!
//! Anything else is not scattered. An expression that the merge compares is copied to the end of the select list. That must not change
//! what Postgres takes anything for: a copied parameter must not get its type from there, and what is not the same twice is not copied.

use crate::catalog::{Collation, SchemaState};
use crate::plan::proof::Prover;
use crate::plan::scope::{Meaning, Node, Scope};
use crate::sql::facts::{ColumnRef, Presence, Source};
use crate::sql::lexer::{Kind, LiteralKind};
use crate::sql::select::{Call, Count, Distinct, Number, OrderItem, Role, Select, Shape, Span};

use super::colocated::Anchor;
use super::counts::CountOperand;
use super::edit::{Edit, Piece};
use super::scatter::{
    Adding, Average, Compared, Comparison, Fold, Hidden, Kept, Merge, Scatter, Shown, Side,
    SortKey, Text,
};

/// What one server says of the time; others say something else in the same statement.
const TIMES: [&str; 4] = ["now", "transaction_timestamp", "statement_timestamp", "age"];

/// The same without parentheses.
const TIME_WORDS: [&str; 5] = [
    "current_timestamp",
    "current_time",
    "current_date",
    "localtimestamp",
    "localtime",
];

/// The outermost block with what is proven of it.
pub struct Outermost<'a> {
    select: &'a Select<'a>,
    scope: &'a Scope<'a>,
    prover: &'a Prover<'a>,
    anchor: &'a Anchor<'a>,
    /// What a text is compared by when nothing near it says more.
    text: Text,
}

/// The columns that are appended to the select list.
#[derive(Default)]
struct Appended {
    pieces: Vec<Piece>,
    columns: usize,
}

impl Appended {
    /// Its place among the hidden columns.
    fn column(&mut self, expression: Vec<Piece>) -> usize {
        let column = self.columns;
        self.columns += 1;
        self.pieces.push(Piece::Text(", (".into()));
        self.pieces.extend(expression);
        let label = format!(") AS \"trunkline {}\"", self.columns);
        self.pieces.push(Piece::Text(label.into()));
        column
    }
}

impl<'a> Outermost<'a> {
    pub fn new(
        select: &'a Select<'a>,
        scope: &'a Scope<'a>,
        prover: &'a Prover<'a>,
        anchor: &'a Anchor<'a>,
    ) -> Outermost<'a> {
        Outermost {
            select,
            scope,
            prover,
            anchor,
            text: text_of_all(select, scope),
        }
    }

    pub fn scatter(&self) -> Option<Scatter> {
        let select = self.select;
        if select.distinct == Distinct::On || select.items.is_empty() || select.from.is_none() {
            return None;
        }
        self.is_the_same_on_all_shards()?;
        let calls = self.own_calls();
        let aggregates: Vec<&Call> = calls.iter().filter(|call| self.aggregates(call)).collect();
        self.no_outer_aggregates()?;
        let windows = calls
            .iter()
            .filter(|call| matches!(call.role, Role::Named(_) | Role::Over(_)));
        let mut has_windows = false;
        for window in windows {
            has_windows = true;
            if !self.holds_key(&self.partition(window)?) {
                return None;
            }
        }
        let groups = self.groups()?;
        let is_grouped =
            !select.group_by.is_empty() || !aggregates.is_empty() || select.having.is_some();
        let groups_are_whole = !is_grouped || self.holds_key(&groups);
        let limit = operand(select.limit.as_ref())?;
        let offset = operand(select.offset.as_ref())?;
        let is_plain = !is_grouped && !has_windows && select.distinct == Distinct::All;
        let locks = select.locking.is_some();
        if locks || self.scope.facts.locking {
            let counted = select.limit.is_some() || select.offset.is_some();
            // Which rows are the first of all is not known before each shard has locked its own first ones.
            if !locks || !is_plain || counted && !select.order_by.is_empty() {
                return None;
            }
        }
        // What is volatile is computed once a row: not where rows are compared, nor where several make one.
        if !is_plain && select.items.iter().any(|item| self.is_volatile(&item.span)) {
            return None;
        }
        let (merge, hidden, mut edits) = if !groups_are_whole {
            if has_windows || select.distinct != Distinct::All {
                return None;
            }
            self.groups_folded(&groups)?
        } else if select.distinct == Distinct::Rows && !self.rows_hold_key() {
            self.distinct_rows()?
        } else {
            self.rows()?
        };
        edits.extend(match &merge {
            Merge::Fold(Fold::Groups { .. }) => self.without_counts(),
            Merge::Concat | Merge::Sort(_) | Merge::Fold(Fold::Distinct { .. }) => {
                self.with_wider_limit(limit, offset)
            }
        });
        edits.sort_by_key(|edit| edit.range.start);
        Some(Scatter {
            edits,
            own: None,
            merge,
            hidden,
            limit,
            offset,
            locks,
        })
    }

    /// Volatile functions and those that tell the time stand only where they may differ from row to row.
    fn is_the_same_on_all_shards(&self) -> Option<()> {
        let select = self.select;
        let conditions = select.having.iter().map(|having| &having.condition);
        let orders = select.order_by.iter().map(|item| &item.expression);
        let windows = select.windows.iter().map(|window| &window.definition);
        let with = select.with.iter();
        let computed = select.group_by.iter().chain(conditions).chain(orders);
        for span in computed.chain(windows).chain(with) {
            if self.is_volatile(span) || self.tells_time(span) {
                return None;
            }
        }
        if select.items.iter().any(|item| self.tells_time(&item.span)) {
            return None;
        }
        let from = select.from.as_ref()?;
        let counts = select.limit.iter().chain(&select.offset);
        let is_expression = |count: &Count| count.number == Number::Unknown;
        if self.is_volatile(from) || counts.into_iter().any(is_expression) {
            return None;
        }
        // A join's condition may compare with the time; a subquery or a function in FROM would show it.
        let relations = &self.scope.facts.blocks[0].relations;
        let only_tables = relations
            .iter()
            .all(|relation| matches!(relation.source, Source::Table(_)));
        (only_tables || !self.tells_time(from)).then_some(())
    }

    fn is_volatile(&self, span: &Span) -> bool {
        let kinds = &self.scope.catalog.functions;
        self.called_in(span)
            .any(|name| kinds.may_be_volatile(&name))
    }

    fn tells_time(&self, span: &Span) -> bool {
        let select = self.select;
        let word = |at: usize| TIME_WORDS.iter().any(|word| select.is(at, word));
        span.clone().any(word) || self.called_in(span).any(|name| TIMES.contains(&&*name))
    }

    /// Names before parentheses, those in subqueries included.
    fn called_in(&self, span: &Span) -> impl Iterator<Item = Box<str>> {
        let select = self.select;
        span.clone()
            .filter(|at| select.kind(at + 1) == Some(Kind::OpenParen))
            .filter_map(|at| select.name(at))
    }

    fn names_in(&self, span: &Span) -> impl Iterator<Item = Box<str>> {
        let select = self.select;
        span.clone().filter_map(|at| select.name(at))
    }

    /// Calls in the select list, HAVING and ORDER BY.
    fn own_calls(&self) -> Vec<Call> {
        self.computed()
            .flat_map(|span| self.select.calls(span))
            .collect()
    }

    fn computed(&self) -> impl Iterator<Item = &'a Span> {
        let select = self.select;
        let items = select.items.iter().map(|item| &item.span);
        let having = select.having.iter().map(|having| &having.condition);
        let orders = select.order_by.iter().map(|item| &item.expression);
        items.chain(having).chain(orders)
    }

    fn aggregates(&self, call: &Call) -> bool {
        match call.role {
            Role::OrderedSet => true,
            Role::Plain => self.scope.catalog.functions.may_aggregate(&call.name),
            Role::Named(_) | Role::Over(_) => false,
        }
    }

    /// An aggregate in a subquery whose arguments are all of the outermost block is computed there. Each must have an argument that surely is not.
    fn no_outer_aggregates(&self) -> Option<()> {
        let select = self.select;
        for span in self.computed() {
            for at in span.clone() {
                if select.kind(at) != Some(Kind::OpenParen) || !select.is_query(at + 1) {
                    continue;
                }
                for inside in at + 1..select.close(at) {
                    let is_call = select.kind(inside + 1) == Some(Kind::OpenParen);
                    let name = select.name(inside).filter(|_| is_call);
                    if name.is_some_and(|name| self.scope.catalog.functions.may_aggregate(&name)) {
                        let arguments = inside + 2..select.close(inside + 1);
                        if !self.is_of_inner_block(&arguments) {
                            return None;
                        }
                    }
                }
            }
        }
        Some(())
    }

    /// Whether something in a span is surely no column of the outermost block.
    fn is_of_inner_block(&self, arguments: &Span) -> bool {
        let select = self.select;
        if arguments.len() == 1 && select.source(arguments.start) == "*" {
            return true;
        }
        let relations = &self.scope.facts.blocks[0].relations;
        let mut at = arguments.start;
        while at < arguments.end {
            let is_name = matches!(select.kind(at), Some(Kind::Word | Kind::Quoted));
            let mut end = at + 1;
            while is_name && select.kind(end) == Some(Kind::Dot) && end + 1 < arguments.end {
                end += 2;
            }
            let is_call = select.kind(end) == Some(Kind::OpenParen);
            if let (true, false, Some(first)) = (is_name, is_call, select.name(at)) {
                let is_inner = match end - at {
                    1 => self.is_inner_column(at, &first),
                    3 => relations.iter().all(|relation| relation.alias != first),
                    _ => false,
                };
                if is_inner {
                    return true;
                }
            }
            at = end;
        }
        false
    }

    /// Whether a name without a qualifier is a column of a table in a subquery, and of none in the outermost block.
    fn is_inner_column(&self, at: usize, name: &str) -> bool {
        let select = self.select;
        let names_a_type = at > 0
            && (select.kind(at - 1) == Some(Kind::Typecast) || select.is(at - 1, "as"))
            || matches!(select.kind(at + 1), Some(Kind::Literal(_)));
        let blocks = &self.scope.facts.blocks;
        let mut inner = (1..blocks.len()).flat_map(|block| {
            (0..blocks[block].relations.len()).map(move |relation| (block, relation))
        });
        !names_a_type
            && (0..blocks[0].relations.len())
                .all(|relation| self.scope.known(0, relation).lacks(name))
            && inner.any(|(block, relation)| self.scope.known(block, relation).has(name))
    }

    /// The expressions of a window's PARTITION BY.
    fn partition(&self, call: &Call) -> Option<Vec<Span>> {
        let mut definition = match &call.role {
            Role::Over(definition) => definition.clone(),
            Role::Named(name) => self.window(name)?,
            Role::Plain | Role::OrderedSet => return None,
        };
        let select = self.select;
        // A window may begin with the name of another, whose partition it takes. Each is named after those it uses.
        for _ in 0..=select.windows.len() {
            let inside = definition.start + 1..definition.end - 1;
            if select.is(inside.start, "partition") && select.is(inside.start + 1, "by") {
                let ends = ["order", "rows", "range", "groups"];
                let end = ends
                    .iter()
                    .filter_map(|word| select.find(&inside, word))
                    .min()
                    .unwrap_or(inside.end);
                return select.pieces(&(inside.start + 2..end));
            }
            definition = self.window(&select.name(inside.start)?)?;
        }
        None
    }

    fn window(&self, name: &str) -> Option<Span> {
        let windows = &self.select.windows;
        let window = windows.iter().find(|window| *window.name == *name)?;
        Some(window.definition.clone())
    }

    /// The expressions that rows are grouped by; `None` when there may be several sets of them, or they are not clear.
    fn groups(&self) -> Option<Vec<Span>> {
        let select = self.select;
        let items = &select.group_by;
        if let Some(first) = items.first()
            && (select.is(first.start, "all") || select.is(first.start, "distinct"))
        {
            return None;
        }
        items.iter().map(|item| self.group(item)).collect()
    }

    fn group(&self, item: &Span) -> Option<Span> {
        let select = self.select;
        let sets = ["rollup", "cube", "grouping"]
            .iter()
            .any(|word| select.is(item.start, word));
        let bare = select.bare(item);
        // Also `()` and `(a, b)`, which is two expressions.
        if sets
            || bare.len() == 2 && select.kind(bare.start) == Some(Kind::OpenParen)
            || select.pieces(&bare)?.len() > 1
        {
            return None;
        }
        if let Some(number) = self.ordinal(item) {
            return self.item(number?);
        }
        let Some(column) = self.simple_name(item) else {
            return Some(item.clone());
        };
        // A column of FROM comes first, then a label.
        if self.scope.resolve(0, &column).is_some() {
            return Some(item.clone());
        }
        let relations = self.scope.facts.blocks[0].relations.len();
        let is_no_column =
            (0..relations).all(|relation| self.scope.known(0, relation).lacks(&column.column));
        if is_no_column {
            self.labelled(&column.column)
        } else {
            None
        }
    }

    /// The number of the item that a literal stands for in GROUP BY and ORDER BY, from 1; `Some(None)` for a literal that is none.
    fn ordinal(&self, item: &Span) -> Option<Option<usize>> {
        let select = self.select;
        match select.kind(item.start) {
            Some(Kind::Literal(kind)) if item.len() == 1 => Some(
                (kind == LiteralKind::Integer)
                    .then(|| select.source(item.start).parse().ok())
                    .flatten(),
            ),
            _ => None,
        }
    }

    /// The expression of an item, counted from 1, when no wildcard comes before it.
    fn item(&self, number: usize) -> Option<Span> {
        let items = self.select.items.get(..number)?;
        let is_star = items.iter().any(|item| item.shape == Shape::Star);
        match &items.last()?.shape {
            Shape::Expression(expression, _) if !is_star => Some(expression.clone()),
            _ => None,
        }
    }

    fn expressions(&self) -> impl Iterator<Item = (&'a Span, Option<&'a str>)> {
        self.select
            .items
            .iter()
            .filter_map(|item| match &item.shape {
                Shape::Expression(expression, label) => Some((expression, label.as_deref())),
                Shape::Star | Shape::Unclear => None,
            })
    }

    /// The expression of the only item with a label.
    fn labelled(&self, label: &str) -> Option<Span> {
        if self
            .select
            .items
            .iter()
            .any(|item| item.shape == Shape::Unclear)
        {
            return None;
        }
        let mut named = self
            .expressions()
            .filter(|(_, given)| given.is_some_and(|given| given == label));
        match (named.next(), named.next()) {
            (Some((expression, _)), None) => Some(expression.clone()),
            _ => None,
        }
    }

    fn simple_name(&self, item: &Span) -> Option<ColumnRef> {
        if item.len() != 1 {
            return None;
        }
        self.column(item)
    }

    fn column(&self, span: &Span) -> Option<ColumnRef> {
        let (qualifier, column) = self.select.column(span)?;
        Some(ColumnRef { qualifier, column })
    }

    /// What an item of ORDER BY sorts by.
    fn ordered(&self, item: &OrderItem) -> Option<Span> {
        let select = self.select;
        let expression = &item.expression;
        if let Some(number) = self.ordinal(expression) {
            return self.item(number?);
        }
        let Some(column) = self.simple_name(expression) else {
            return Some(expression.clone());
        };
        let name = &*column.column;
        // A label comes first. Columns without one are labelled with their own names.
        let mut found: Option<Span> = None;
        for item in &select.items {
            let Shape::Expression(candidate, label) = &item.shape else {
                if item.shape == Shape::Unclear {
                    return None;
                }
                continue;
            };
            let own = self.column(candidate);
            let is_named = match (label, &own) {
                (Some(label), _) => **label == *name,
                (None, Some(own)) => *own.column == *name,
                // Its label is taken from a word in it, or from a type.
                (None, None) => {
                    if !self.is_unlabelled_safely(candidate, name) {
                        return None;
                    }
                    false
                }
            };
            if is_named {
                if found
                    .as_ref()
                    .is_some_and(|found| !select.same(found, candidate))
                {
                    return None;
                }
                found = Some(candidate.clone());
            }
        }
        if found.is_some() {
            return found;
        }
        self.scope.resolve(0, &column).map(|_| expression.clone())
    }

    /// Whether an expression without a label is surely not labelled with a name (`FigureColname`: a function's, a type's, `case` ...).
    fn is_unlabelled_safely(&self, expression: &Span, name: &str) -> bool {
        let made = [
            "case",
            "array",
            "row",
            "coalesce",
            "greatest",
            "least",
            "nullif",
            "exists",
            "grouping",
            "bool",
            "int4",
            "int8",
            "numeric",
            "float8",
            "interval",
            "timestamp",
            "timestamptz",
            "date",
            "time",
            "timetz",
            "bpchar",
            "varchar",
            "int2",
            "float4",
            "bit",
            "varbit",
            "extract",
            "substring",
            "position",
            "overlay",
            "btrim",
            "ltrim",
            "rtrim",
            "normalize",
            "is_normalized",
            "date_part",
            "xmlelement",
            "timezone",
        ];
        !made.contains(&name) && !self.names_in(expression).any(|word| *word == *name)
    }

    /// Whether a list of expressions holds all key columns of the anchor (or what always equals them).
    fn holds_key(&self, expressions: &[Span]) -> bool {
        let columns: Vec<ColumnRef> = expressions
            .iter()
            .filter_map(|expression| self.column(expression))
            .collect();
        self.anchor.key.iter().all(|key| {
            columns.iter().any(|column| {
                self.scope
                    .resolve(0, column)
                    .is_some_and(|node| self.is_key(node, *key))
            })
        })
    }

    fn is_key<'b>(&self, node: Node<'b>, key: Node<'b>) -> bool
    where
        'a: 'b,
    {
        let prover: &Prover<'b> = self.prover;
        match node {
            // Where an outer join finds no partner it is NULL for every key.
            Node::Column {
                block: 0, relation, ..
            } => {
                self.scope.facts.blocks[0].relations[relation].presence == Presence::Always
                    && prover.equals(node, key)
            }
            Node::Merged { block: 0, .. } => prover.equals(node, key),
            _ => false,
        }
    }

    /// Whether the select list holds the key.
    fn rows_hold_key(&self) -> bool {
        let select = self.select;
        let expressions: Vec<Span> = self
            .expressions()
            .map(|(expression, _)| expression.clone())
            .collect();
        let has_all = select.items.iter().any(|item| {
            item.shape == Shape::Star
                && match item.span.len() {
                    1 => true,
                    3 => self.is_alias_of_anchor(item.span.start),
                    _ => false,
                }
        });
        has_all || self.holds_key(&expressions)
    }

    fn is_alias_of_anchor(&self, at: usize) -> bool {
        let relations = &self.scope.facts.blocks[0].relations;
        self.anchor.key.iter().all(|key| match key {
            Node::Column { relation, .. } => self
                .select
                .name(at)
                .is_some_and(|name| relations[*relation].alias == name),
            Node::Merged { .. } => false,
        })
    }

    fn rows(&self) -> Option<(Merge, Hidden, Vec<Edit>)> {
        let select = self.select;
        if select.order_by.is_empty() {
            return Some((Merge::Concat, Hidden::Columns(0), Vec::new()));
        }
        let mut appended = Appended::default();
        let mut keys = Vec::new();
        for item in &select.order_by {
            let expression = self.ordered(item)?;
            if select.distinct == Distinct::Rows && !self.is_shown(&expression) {
                return None;
            }
            let column = self.append(&expression, &mut appended)?;
            keys.push(self.sort_key(item, column, &expression));
        }
        Some((
            Merge::Sort(keys),
            Hidden::Columns(appended.columns),
            vec![self.appending(appended)?],
        ))
    }

    fn sort_key(&self, item: &OrderItem, column: usize, expression: &Span) -> SortKey {
        SortKey {
            column,
            direction: item.direction,
            nulls: item.nulls,
            text: self.text_of(expression),
        }
    }

    /// Whether an expression is a column of the result.
    fn is_shown(&self, expression: &Span) -> bool {
        let select = self.select;
        let shown = self
            .expressions()
            .any(|(shown, _)| select.same(&select.bare(shown), &select.bare(expression)));
        let all = || {
            select
                .items
                .iter()
                .any(|item| item.shape == Shape::Star && item.span.len() == 1)
                && self
                    .column(expression)
                    .is_some_and(|column| self.scope.resolve(0, &column).is_some())
        };
        shown || all()
    }

    fn distinct_rows(&self) -> Option<(Merge, Hidden, Vec<Edit>)> {
        let select = self.select;
        let mut appended = Appended::default();
        for item in &select.items {
            match &item.shape {
                Shape::Star => {
                    appended.pieces.push(Piece::Text(", ".into()));
                    appended.pieces.push(Piece::Copy(select.bytes(&item.span)));
                    appended.columns += 1;
                }
                Shape::Expression(expression, _) => {
                    self.append(expression, &mut appended)?;
                }
                Shape::Unclear => return None,
            }
        }
        let has_star = select.items.iter().any(|item| item.shape == Shape::Star);
        let mut order = Vec::new();
        for item in &select.order_by {
            let expression = self.ordered(item)?;
            let column = self.expressions().position(|(shown, _)| {
                select.same(&select.bare(shown), &select.bare(&expression))
            })?;
            if has_star {
                return None;
            }
            order.push(self.sort_key(item, column, &expression));
        }
        let text = self.text;
        Some((
            Merge::Fold(Fold::Distinct { text, order }),
            Hidden::Again,
            vec![self.appending(appended)?],
        ))
    }

    fn groups_folded(&self, groups: &[Span]) -> Option<(Merge, Hidden, Vec<Edit>)> {
        let select = self.select;
        let mut parts = Parts {
            groups,
            appended: Appended::default(),
            kept: Vec::new(),
            places: Vec::new(),
        };
        for group in groups {
            self.append(group, &mut parts.appended)?;
            parts.kept.push(Kept::Group(self.text_of(group)));
            parts.places.push(group.clone());
        }
        let mut shown = Vec::new();
        for item in &select.items {
            let Shape::Expression(expression, _) = &item.shape else {
                return None;
            };
            shown.push(match self.aggregate(expression)? {
                None if self.is_of_group(expression, groups) => Shown::First,
                None => return None,
                Some(Folding::Add(adding)) => Shown::Add(adding),
                Some(Folding::Average(behind)) => {
                    Shown::Average(self.average(expression, &behind, &mut parts)?)
                }
                Some(Folding::Extreme(side, argument)) => {
                    let column = self.append(expression, &mut parts.appended)?;
                    let kept = Kept::Extreme(side, self.text_of(&argument));
                    parts.kept.push(kept);
                    parts.places.push(expression.clone());
                    Shown::Won(column)
                }
            });
        }
        let mut edits = Vec::new();
        let having = match &select.having {
            Some(having) => self.having(&having.condition, &mut parts, &mut edits)?,
            None => Vec::new(),
        };
        let mut order = Vec::new();
        for item in &select.order_by {
            let expression = self.ordered(item)?;
            let column = self.kept(&expression, &mut parts)?;
            order.push(self.sort_key(item, column, &expression));
        }
        if parts.appended.columns > 0 {
            edits.push(self.appending(parts.appended)?);
        }
        let hidden = Hidden::Columns(parts.kept.len());
        let fold = Fold::Groups {
            shown,
            kept: parts.kept,
            having,
            order,
        };
        Some((Merge::Fold(fold), hidden, edits))
    }

    /// The hidden column that holds an expression over groups; appends it when there is none yet.
    fn kept(&self, expression: &Span, parts: &mut Parts<'_>) -> Option<usize> {
        let select = self.select;
        let present = parts
            .places
            .iter()
            .position(|place| select.same(&select.bare(place), &select.bare(expression)));
        if present.is_some() {
            return present;
        }
        let kept = match self.aggregate(expression)? {
            None if self.is_of_group(expression, parts.groups) => Kept::First,
            None => return None,
            Some(Folding::Add(adding)) => Kept::Add(adding),
            Some(Folding::Average(behind)) => {
                Kept::Average(self.average(expression, &behind, parts)?)
            }
            Some(Folding::Extreme(side, argument)) => Kept::Extreme(side, self.text_of(&argument)),
        };
        parts.kept.push(kept);
        parts.places.push(expression.clone());
        self.append(expression, &mut parts.appended)
    }

    /// Appends what an average is the quotient of. `behind` is what stands behind the name in its call.
    fn average(&self, expression: &Span, behind: &Span, parts: &mut Parts<'_>) -> Option<Average> {
        self.may_append(expression)?;
        let mut column = |name: &str, adding: Adding| {
            let copy = Piece::Copy(self.select.bytes(behind));
            let column = parts.appended.column(vec![Piece::Text(name.into()), copy]);
            parts.kept.push(Kept::Add(adding));
            // No expression of the client's is the same.
            parts.places.push(behind.start..behind.start);
            column
        };
        Some(Average {
            sum: column("pg_catalog.sum", Adding::Whole),
            count: column("pg_catalog.count", Adding::Sum),
        })
    }

    /// The conditions of HAVING that only whole groups can be judged by; the shards get `true` in their place. What goes by the groups' keys
    /// alone stays with the shards: it is the same for all parts of a group.
    fn having(
        &self,
        condition: &Span,
        parts: &mut Parts<'_>,
        edits: &mut Vec<Edit>,
    ) -> Option<Vec<Compared>> {
        let select = self.select;
        let holds_aggregate =
            |span: &Span| select.calls(span).iter().any(|call| self.aggregates(call));
        let mut found = Vec::new();
        for conjunct in self.conjuncts(condition)? {
            if !holds_aggregate(&conjunct) {
                if parts.groups.is_empty() || !self.is_of_group(&conjunct, parts.groups) {
                    return None;
                }
                continue;
            }
            let bare = select.bare(&conjunct);
            let mut operators = bare.clone().filter(|at| {
                select.kind(*at) == Some(Kind::Operator) && select.is_outside(*at, &bare)
            });
            let at = operators.find(|at| comparison(select.source(*at)).is_some())?;
            let comparison = comparison(select.source(at))?;
            let (left, right) = (bare.start..at, at + 1..bare.end);
            let is_aggregate = |span: &Span| matches!(self.aggregate(span), Some(Some(_)));
            let is_sound = is_aggregate(&left) && self.is_constant(&right)
                || self.is_constant(&left) && is_aggregate(&right);
            if !is_sound {
                return None;
            }
            let (left, right) = (self.kept(&left, parts)?, self.kept(&right, parts)?);
            edits.push(Edit::replace(select.bytes(&conjunct), "true"));
            found.push(Compared {
                left,
                comparison,
                right,
            });
        }
        Some(found)
    }

    /// The parts of a condition between ANDs; `None` where an AND may be something else.
    fn conjuncts(&self, condition: &Span) -> Option<Vec<Span>> {
        let select = self.select;
        let condition = select.bare(condition);
        let unclear = [
            "or", "not", "between", "case", "is", "in", "like", "similar",
        ];
        if unclear
            .iter()
            .any(|word| select.find(&condition, word).is_some())
        {
            return None;
        }
        let mut conjuncts = Vec::new();
        let mut rest = condition;
        while let Some(at) = select.find(&rest, "and") {
            conjuncts.push(rest.start..at);
            rest.start = at + 1;
        }
        conjuncts.push(rest);
        Some(conjuncts)
    }

    /// A number with or without a sign, a literal behind or before its type, a parameter with a cast.
    fn is_constant(&self, span: &Span) -> bool {
        let select = self.select;
        let span = select.bare(span);
        let kinds: Vec<_> = span.clone().filter_map(|at| select.kind(at)).collect();
        match kinds[..] {
            [Kind::Literal(_)]
            | [Kind::Word, Kind::Literal(_)]
            | [Kind::Literal(_) | Kind::Param, Kind::Typecast, Kind::Word] => true,
            [Kind::Operator, Kind::Literal(_)] => select.source(span.start) == "-",
            _ => false,
        }
    }

    /// How an expression that is one aggregate adds up; `Some(None)` when it holds none, `None` when it does not add up.
    fn aggregate(&self, expression: &Span) -> Option<Option<Folding>> {
        let select = self.select;
        let expression = select.bare(expression);
        let calls = select.calls(&expression);
        let mut aggregates = calls.iter().filter(|call| self.aggregates(call));
        let Some(call) = aggregates.next() else {
            return Some(None);
        };
        let arguments = &call.arguments;
        let is_simple = call.span == expression
            && call.role == Role::Plain
            && call
                .schema
                .as_deref()
                .is_none_or(|schema| schema == "pg_catalog")
            && !self.scope.catalog.functions.is_own_aggregate(&call.name)
            && !["distinct", "variadic"]
                .iter()
                .any(|word| select.is(arguments.start, word))
            && select.find(arguments, "order").is_none();
        if aggregates.next().is_some() || !is_simple {
            return None;
        }
        Some(Some(match &*call.name {
            "count" | "sum" => Folding::Add(Adding::Sum),
            "avg" => Folding::Average(arguments.start - 1..expression.end),
            "bool_and" | "every" => Folding::Add(Adding::And),
            "bool_or" => Folding::Add(Adding::Or),
            "min" => Folding::Extreme(Side::Least, arguments.clone()),
            "max" => Folding::Extreme(Side::Greatest, arguments.clone()),
            _ => return None,
        }))
    }

    /// Whether an expression without aggregates has one value for each group, and gives one row.
    fn is_of_group(&self, expression: &Span, groups: &[Span]) -> bool {
        let select = self.select;
        let kinds = &self.scope.catalog.functions;
        groups
            .iter()
            .any(|group| select.same(&select.bare(group), &select.bare(expression)))
            || !select.has_query(expression)
                && self.scope.catalog.schema == SchemaState::Read
                && !self
                    .called_in(expression)
                    .any(|name| kinds.may_return_sets(&name))
    }

    /// Appends a copy of an expression; its place among the hidden columns.
    fn append(&self, expression: &Span, appended: &mut Appended) -> Option<usize> {
        self.may_append(expression)?;
        let copy = Piece::Copy(self.select.bytes(expression));
        Some(appended.column(vec![copy]))
    }

    /// Whether a copy of an expression is the same as the expression.
    fn may_append(&self, expression: &Span) -> Option<()> {
        let select = self.select;
        if self.is_volatile(expression) || self.tells_time(expression) {
            return None;
        }
        let is_item = self
            .expressions()
            .any(|(shown, _)| select.same(&select.bare(shown), &select.bare(expression)));
        let types_are_given = expression.clone().all(|at| {
            select.kind(at) != Some(Kind::Param) || select.kind(at + 1) == Some(Kind::Typecast)
        });
        (is_item || types_are_given).then_some(())
    }

    fn appending(&self, appended: Appended) -> Option<Edit> {
        let last = self.select.items.last()?;
        let end = self.select.bytes(&last.span).end;
        Some(Edit::pieces(end..end, appended.pieces))
    }

    /// What texts that an expression yields are compared by.
    fn text_of(&self, expression: &Span) -> Text {
        let select = self.select;
        let bare = select.bare(expression);
        let mut collations = bare.clone().filter(|at| select.is(*at, "collate"));
        if let Some(at) = collations.next() {
            // Only behind the whole of it does it decide alone.
            let is_last = at + 2 == bare.end && collations.next().is_none();
            let by_bytes = select
                .name(at + 1)
                .is_some_and(|name| matches!(&*name, "C" | "POSIX" | "ucs_basic"));
            return if is_last && by_bytes {
                Text::C
            } else {
                Text::Unknown
            };
        }
        if let Some(column) = self.column(&bare)
            && let Some(Node::Column {
                block, relation, ..
            }) = self.scope.resolve(0, &column)
            && let Some(columns) = self.scope.known(block, relation).columns
            && let Some(known) = columns.iter().find(|known| known.name == column.column)
        {
            return text_by(known.collation);
        }
        self.text
    }

    /// LIMIT and OFFSET as the shards get them: all rows of the whole that are shown or left out may be one shard's.
    fn with_wider_limit(
        &self,
        limit: Option<CountOperand>,
        offset: Option<CountOperand>,
    ) -> Vec<Edit> {
        let select = self.select;
        let Some(offset) = select.offset.as_ref().filter(|_| offset.is_some()) else {
            return Vec::new();
        };
        let mut edits = vec![self.no_offset(offset)];
        if let Some(limit) = select.limit.as_ref().filter(|_| limit.is_some()) {
            let clause = select.bytes(&limit.clause);
            let limit = match limit.number {
                Number::One => Piece::Text("1".into()),
                _ => Piece::Copy(select.bytes(&limit.written)),
            };
            let text = |text: &str| Piece::Text(text.into());
            edits.push(Edit::pieces(
                clause,
                vec![
                    text("LIMIT least(("),
                    limit,
                    text(")::bigint::numeric + coalesce(("),
                    Piece::Copy(select.bytes(&offset.written)),
                    text(")::bigint::numeric, 0), 9223372036854775807)::bigint"),
                ],
            ));
        }
        edits
    }

    /// Neither LIMIT nor OFFSET; parameters in them stay in the text, because the client gives values for them.
    fn without_counts(&self) -> Vec<Edit> {
        let select = self.select;
        let limit = select.limit.iter().map(|limit| {
            let mut pieces = vec![Piece::Text("LIMIT NULL::bigint".into())];
            if let Number::Param(_) = limit.number {
                pieces.push(Piece::Text(" + (".into()));
                pieces.push(Piece::Copy(select.bytes(&limit.written)));
                pieces.push(Piece::Text(")::bigint".into()));
            }
            Edit::pieces(select.bytes(&limit.clause), pieces)
        });
        let offset = select.offset.iter().map(|offset| self.no_offset(offset));
        limit.chain(offset).collect()
    }

    fn no_offset(&self, offset: &Count) -> Edit {
        let select = self.select;
        let mut pieces = vec![Piece::Text("OFFSET 0".into())];
        if let Number::Param(_) = offset.number {
            pieces.push(Piece::Text(" * (".into()));
            pieces.push(Piece::Copy(select.bytes(&offset.written)));
            pieces.push(Piece::Text(")::bigint".into()));
        }
        Edit::pieces(select.bytes(&offset.clause), pieces)
    }
}

/// The columns by which groups are folded, as they are found.
struct Parts<'a> {
    groups: &'a [Span],
    appended: Appended,
    /// Of each hidden column what becomes of it, and the expression that it is.
    kept: Vec<Kept>,
    places: Vec<Span>,
}

fn comparison(operator: &str) -> Option<Comparison> {
    Some(match operator {
        "=" => Comparison::Equal,
        "<>" | "!=" => Comparison::NotEqual,
        "<" => Comparison::Less,
        "<=" => Comparison::LessOrEqual,
        ">" => Comparison::Greater,
        ">=" => Comparison::GreaterOrEqual,
        _ => return None,
    })
}

/// How one aggregate of several parts of a group is found.
enum Folding {
    Add(Adding),
    /// With what stands behind its name.
    Average(Span),
    /// With its argument.
    Extreme(Side, Span),
}

/// `Some(None)`: no limit.
fn operand(count: Option<&Count>) -> Option<Option<CountOperand>> {
    let Some(count) = count else {
        return Some(None);
    };
    match count.number {
        Number::None => Some(None),
        Number::One => Some(Some(CountOperand::One)),
        Number::Literal(slot) => Some(Some(CountOperand::Literal(slot))),
        Number::Param(number) => Some(Some(CountOperand::Param(number))),
        Number::Unknown | Number::Ties => None,
    }
}

/// What any text in the statement is compared by: the weakest of all that its columns have, and the database.
fn text_of_all(select: &Select<'_>, scope: &Scope<'_>) -> Text {
    let catalog = scope.catalog;
    if catalog.schema == SchemaState::Unread || select.whole().any(|at| select.is(at, "collate")) {
        return Text::Unknown;
    }
    let mut collation = catalog.collation;
    for (block, content) in scope.facts.blocks.iter().enumerate() {
        for relation in 0..content.relations.len() {
            let known = scope.known(block, relation);
            match known.columns {
                Some(columns) => {
                    let weakest = columns.iter().map(|column| column.collation).max();
                    collation = collation.max(weakest.unwrap_or(Collation::Bytes));
                }
                // Its columns come from others, or have the database's collation.
                None if known.meaning == Meaning::NotATable => {}
                None => return Text::Unknown,
            }
        }
    }
    text_by(collation)
}

fn text_by(collation: Collation) -> Text {
    match collation {
        Collation::Bytes => Text::C,
        Collation::Language => Text::Deterministic,
        Collation::Loose => Text::Unknown,
    }
}
