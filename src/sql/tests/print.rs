//! Prints what was read, compactly: literals as `#number:source`.

use crate::sql::class::Class;
use crate::sql::facts::{
    Access, Block, ColumnRef, Conjunct, Facts, InsertSource, Name, Operand, Source,
};
use crate::sql::normalise::{Literal, normalise};
use crate::sql::{Body, SqlError, Statement};
use std::fmt::Write;

pub(super) fn printed(text: &str, read: &Result<Vec<Statement>, SqlError>) -> String {
    let mut out = String::new();
    let mut literals = Vec::new();
    normalise(text.as_bytes(), &mut Vec::new(), &mut literals).ok();
    match read {
        Err(error) => writeln!(out, "{} {error}", error.sqlstate()).expect("written"),
        Ok(statements) => {
            for statement in statements {
                let source = &text[statement.range.clone()];
                if statements.len() > 1 {
                    writeln!(out, "<{}>", source.replace('\n', " ")).expect("written");
                }
                print_statement(
                    &mut out,
                    Reader {
                        text,
                        literals: &literals,
                    },
                    statement,
                );
            }
        }
    }
    out
}

#[derive(Clone, Copy)]
struct Reader<'a> {
    text: &'a str,
    literals: &'a [Literal],
}

fn print_statement(out: &mut String, reader: Reader, statement: &Statement) {
    if let Some(hint) = &statement.hint {
        writeln!(out, "hint {hint:?}").expect("written");
    }
    match &statement.class {
        Class::Data if matches!(statement.body, Body::Facts(_)) => {}
        class => writeln!(out, "{class:?}").expect("written"),
    }
    match &statement.body {
        Body::None => {}
        Body::Facts(facts) => print_facts(out, reader, facts),
        Body::Unparsed {
            words,
            near,
            message,
        } => {
            writeln!(
                out,
                "unparsed near {:?}: {message}; words {}",
                &reader.text[*near..],
                words.join(" ")
            )
            .expect("written");
        }
    }
}

fn print_facts(out: &mut String, reader: Reader, facts: &Facts) {
    for (index, block) in facts.blocks.iter().enumerate() {
        print_block(out, reader, index, block);
    }
    let merged = facts.merge.iter().flat_map(|merge| &merge.inserts);
    for insert in facts.inserts.iter().chain(merged) {
        let columns = insert
            .columns
            .as_ref()
            .map_or("*".into(), |columns| columns.join(", "));
        let source = match &insert.source {
            InsertSource::Values(rows) => rows
                .iter()
                .map(|row| format!("({})", reader.operands(row)))
                .collect::<Vec<_>>()
                .join(" "),
            InsertSource::Select(block) => format!("select {block:?}"),
            InsertSource::DefaultValues => "default values".into(),
        };
        writeln!(out, "insert {} ({columns}): {source}", name(&insert.table)).expect("written");
    }
    if let Some(merge) = &facts.merge {
        let source = merge.derived.as_ref().map(|derived| &derived.columns);
        writeln!(
            out,
            "merge, unmatched {:?}, source {source:?}",
            merge.unmatched
        )
        .expect("written");
    }
    for assignment in &facts.assignments {
        writeln!(
            out,
            "assign {}: {}",
            name(&assignment.table),
            assignment.columns.join(", ")
        )
        .expect("written");
    }
    if !facts.functions.is_empty() {
        writeln!(
            out,
            "functions {}",
            facts
                .functions
                .iter()
                .map(name)
                .collect::<Vec<_>>()
                .join(", ")
        )
        .expect("written");
    }
    if facts.locking {
        writeln!(out, "locking").expect("written");
    }
    for doubt in &facts.doubts {
        writeln!(out, "doubt {doubt:?}").expect("written");
    }
    for leaves in &facts.leaves {
        writeln!(out, "leaves {leaves:?}").expect("written");
    }
}

fn print_block(out: &mut String, reader: Reader, index: usize, block: &Block) {
    let parent = block
        .parent
        .map_or(String::new(), |parent| format!(" in {parent}"));
    let output = if block.output.is_empty() {
        String::new()
    } else {
        format!(" -> {}", reader.operands(&block.output))
    };
    writeln!(out, "block {index}{parent}{output}").expect("written");
    let mut used = vec![false; block.conjuncts.len()];
    for relation in &block.relations {
        let source = match &relation.source {
            Source::Table(table) => name(table),
            Source::Cte(name) => format!("cte {name}"),
            Source::Derived => "derived".into(),
            Source::Function => "function".into(),
        };
        let alias = if *source == *relation.alias {
            String::new()
        } else {
            format!(" as {:?}", relation.alias)
        };
        let access = match relation.access {
            Access::Read => "",
            Access::Write => " write",
        };
        let conditions: Vec<String> = relation
            .usable
            .iter()
            .map(|index| reader.conjunct(&block.conjuncts[*index]))
            .collect();
        relation.usable.iter().for_each(|index| used[*index] = true);
        writeln!(
            out,
            "  {source}{alias}{access}: {}",
            conditions.join(" and ")
        )
        .expect("written");
    }
    for (conjunct, _) in block.conjuncts.iter().zip(used).filter(|(_, used)| !used) {
        writeln!(out, "  for none: {}", reader.conjunct(conjunct)).expect("written");
    }
}

fn name(name: &Name) -> String {
    name.schema
        .as_ref()
        .map_or(name.name.to_string(), |schema| {
            format!("{schema}.{}", name.name)
        })
}

fn column(column: &ColumnRef) -> String {
    column
        .qualifier
        .as_ref()
        .map_or(column.column.to_string(), |qualifier| {
            format!("{qualifier}.{}", column.column)
        })
}

impl Reader<'_> {
    fn operands(&self, operands: &[Operand]) -> String {
        operands
            .iter()
            .map(|operand| self.operand(operand))
            .collect::<Vec<_>>()
            .join(", ")
    }

    fn operand(&self, operand: &Operand) -> String {
        let cast = |cast: &Option<crate::sql::facts::Cast>| {
            cast.as_ref()
                .map_or(String::new(), |cast| format!("::{}", cast.0))
        };
        match operand {
            Operand::Literal {
                slot,
                negative,
                cast: to,
            } => {
                let literal = &self.literals[*slot];
                let source = &self.text[literal.start as usize..literal.end as usize];
                format!(
                    "#{slot}:{}{source}{}",
                    if *negative { "-" } else { "" },
                    cast(to)
                )
            }
            Operand::Param { number, cast: to } => format!("${number}{}", cast(to)),
            Operand::Null => "null".into(),
            Operand::Default => "default".into(),
            Operand::Column(name) => column(name),
            Operand::Unknown => "?".into(),
        }
    }

    fn conjunct(&self, conjunct: &Conjunct) -> String {
        match conjunct {
            Conjunct::Equal(name, value) => format!("{} = {}", column(name), self.operand(value)),
            Conjunct::In(name, values) => {
                format!("{} in ({})", column(name), self.operands(values))
            }
            Conjunct::AnyOf(name, value) => {
                format!("{} = any({})", column(name), self.operand(value))
            }
            Conjunct::Same(left, right) => format!("{} = {}", column(left), column(right)),
            Conjunct::Using {
                column,
                left,
                right,
            } => format!("using {column} {left:?} {right:?}"),
        }
    }
}
