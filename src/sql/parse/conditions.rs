//! Which conditions an expression proves, and what a compared value is.
//!
//! Only what must be true for a row to pass counts: conjuncts of the whole expression, parentheses aside, that are strict equalities
//! (NULL never passes). NOT, IS TRUE, CASE, arithmetic, a cast or collation of the column and calls prove nothing.

use super::shim::COLLATED;
use super::tokens;
use super::walk::identifiers;
use crate::sql::facts::{Cast, ColumnRef, Conjunct, Operand};
use crate::sql::names;
use sqlparser::ast::{
    ArrayElemTypeDef, BinaryOperator, CastKind, DataType, ExactNumberInfo, Expr, Ident, ObjectName,
    TimezoneInfo, UnaryOperator, Value,
};

/// Unquoted words that are calls without parentheses.
const VALUE_FUNCTIONS: [&str; 12] = [
    "current_catalog",
    "current_date",
    "current_role",
    "current_schema",
    "current_time",
    "current_timestamp",
    "current_user",
    "localtime",
    "localtimestamp",
    "session_user",
    "system_user",
    "user",
];

/// Whether an identifier is a call without parentheses (`current_user`).
pub(super) fn is_value_function(name: &Ident) -> bool {
    name.quote_style.is_none()
        && VALUE_FUNCTIONS
            .iter()
            .any(|known| name.value.eq_ignore_ascii_case(known))
}

pub(super) fn fold(name: &Ident) -> Box<str> {
    if name.quote_style.is_some() {
        names::keep(&name.value)
    } else {
        names::fold(&name.value)
    }
}

/// The conjuncts of a condition.
pub(super) fn conjuncts(condition: &Expr) -> Vec<Conjunct> {
    let mut found = Vec::new();
    let mut open = vec![condition];
    while let Some(expr) = open.pop() {
        match expr {
            Expr::Nested(expr) => open.push(expr),
            Expr::BinaryOp {
                left,
                op: BinaryOperator::And,
                right,
            } => open.extend([&**right, &**left]),
            expr => conjunct(expr, &mut found),
        }
    }
    found
}

fn conjunct(expr: &Expr, found: &mut Vec<Conjunct>) {
    match expr {
        Expr::BinaryOp {
            left,
            op: BinaryOperator::Eq,
            right,
        } => equality(left, right, found),
        Expr::InList {
            expr,
            list,
            negated: false,
        } => in_list(expr, list, found),
        Expr::AnyOp {
            left,
            compare_op: BinaryOperator::Eq,
            right,
            ..
        } => found.extend(any(left, right)),
        Expr::BinaryOp {
            op: BinaryOperator::Or,
            ..
        } => found.extend(alternatives(expr)),
        _ => {}
    }
}

/// `a = b`, or `(a, b) = (c, d)` member by member.
fn equality(left: &Expr, right: &Expr, found: &mut Vec<Conjunct>) {
    match (bare(left), bare(right)) {
        (Expr::Tuple(left), Expr::Tuple(right)) if left.len() == right.len() => {
            for (left, right) in left.iter().zip(right) {
                found.extend(equal(left, right));
            }
        }
        (left, right) => found.extend(equal(left, right)),
    }
}

fn equal(left: &Expr, right: &Expr) -> Option<Conjunct> {
    match (operand(left), operand(right)) {
        (Operand::Column(left), Operand::Column(right)) => Some(Conjunct::Same(left, right)),
        (Operand::Column(column), value) | (value, Operand::Column(column)) if is_known(&value) => {
            Some(Conjunct::Equal(column, value))
        }
        _ => None,
    }
}

fn is_known(operand: &Operand) -> bool {
    match operand {
        Operand::Literal { .. } | Operand::Param { .. } | Operand::Null => true,
        Operand::Default | Operand::Column(_) | Operand::Unknown => false,
    }
}

/// `column IN (..)`; of a row, each member is in the list of its place.
fn in_list(expr: &Expr, list: &[Expr], found: &mut Vec<Conjunct>) {
    let Expr::Tuple(members) = bare(expr) else {
        if let Operand::Column(column) = operand(expr)
            && let Some(values) = known(list.iter())
        {
            found.push(Conjunct::In(column, values));
        }
        return;
    };
    let rows: Option<Vec<&Vec<Expr>>> = list
        .iter()
        .map(|row| match bare(row) {
            Expr::Tuple(row) if row.len() == members.len() => Some(row),
            _ => None,
        })
        .collect();
    let Some(rows) = rows else {
        return;
    };
    for (place, member) in members.iter().enumerate() {
        if let Operand::Column(column) = operand(member)
            && let Some(values) = known(rows.iter().map(|row| &row[place]))
        {
            found.push(Conjunct::In(column, values));
        }
    }
}

/// The values, when all of them are known.
fn known<'a>(values: impl Iterator<Item = &'a Expr>) -> Option<Vec<Operand>> {
    values
        .map(|value| Some(operand(value)).filter(is_known))
        .collect()
}

/// `column = ANY (array)`.
fn any(left: &Expr, right: &Expr) -> Option<Conjunct> {
    let Operand::Column(column) = operand(left) else {
        return None;
    };
    match bare(right) {
        Expr::Array(array) => known(array.elem.iter()).map(|values| Conjunct::In(column, values)),
        array => match operand(array) {
            value @ (Operand::Literal { .. } | Operand::Param { .. }) => {
                Some(Conjunct::AnyOf(column, value))
            }
            Operand::Null | Operand::Default | Operand::Column(_) | Operand::Unknown => None,
        },
    }
}

/// `column = a OR column IN (b, c)`, all of one column.
fn alternatives(expr: &Expr) -> Option<Conjunct> {
    let mut open = vec![expr];
    let mut column: Option<ColumnRef> = None;
    let mut values = Vec::new();
    while let Some(expr) = open.pop() {
        let mut found = Vec::new();
        match expr {
            Expr::Nested(expr) => {
                open.push(expr);
                continue;
            }
            Expr::BinaryOp {
                left,
                op: BinaryOperator::Or,
                right,
            } => {
                open.extend([&**right, &**left]);
                continue;
            }
            Expr::BinaryOp {
                left,
                op: BinaryOperator::Eq,
                right,
            } => found.extend(equal(left, right)),
            Expr::InList {
                expr,
                list,
                negated: false,
            } => in_list(expr, list, &mut found),
            _ => return None,
        }
        let (this, more) = match (found.pop(), found.pop()) {
            (Some(Conjunct::Equal(this, value)), None) => (this, vec![value]),
            (Some(Conjunct::In(this, values)), None) => (this, values),
            _ => return None,
        };
        if *column.get_or_insert_with(|| this.clone()) != this {
            return None;
        }
        values.extend(more);
    }
    column.map(|column| Conjunct::In(column, values))
}

/// An expression without the parentheses around it.
fn bare(mut expr: &Expr) -> &Expr {
    while let Expr::Nested(inside) = expr {
        expr = inside;
    }
    expr
}

/// What an expression is, as far as its value can be known.
pub(super) fn operand(expr: &Expr) -> Operand {
    match bare(expr) {
        Expr::Value(value) => match &value.value {
            Value::Null => Operand::Null,
            Value::Placeholder(name) => match name
                .strip_prefix('$')
                .and_then(|number| number.parse().ok())
            {
                Some(number) if number > 0 => Operand::Param { number, cast: None },
                _ => Operand::Unknown,
            },
            Value::Number(..) | Value::SingleQuotedString(_) => {
                tokens::slot(value.span).map_or(Operand::Unknown, |slot| Operand::Literal {
                    slot,
                    negative: false,
                    cast: None,
                })
            }
            _ => Operand::Unknown,
        },
        Expr::Identifier(name) if is_value_function(name) => Operand::Unknown,
        Expr::Identifier(name)
            if name.quote_style.is_none() && name.value.eq_ignore_ascii_case("default") =>
        {
            Operand::Default
        }
        Expr::Identifier(name) => Operand::Column(ColumnRef {
            qualifier: None,
            column: fold(name),
        }),
        Expr::CompoundIdentifier(names) => match names.as_slice() {
            [.., qualifier, column] => Operand::Column(ColumnRef {
                qualifier: Some(fold(qualifier)),
                column: fold(column),
            }),
            _ => Operand::Unknown,
        },
        Expr::UnaryOp {
            op: UnaryOperator::Minus,
            expr,
        } => signed(expr, Sign::Minus),
        Expr::UnaryOp {
            op: UnaryOperator::Plus,
            expr,
        } => signed(expr, Sign::Plus),
        Expr::Cast {
            kind: CastKind::Cast | CastKind::DoubleColon,
            expr,
            data_type,
            format: None,
        } => match bare(expr) {
            // The first of two casts may change the value. Chains of them are long: no recursion.
            Expr::Cast { .. } => Operand::Unknown,
            expr => cast(operand(expr), data_type),
        },
        Expr::TypedString(typed) => {
            let literal = tokens::slot(typed.value.span).map(|slot| Operand::Literal {
                slot,
                negative: false,
                cast: None,
            });
            literal.map_or(Operand::Unknown, |literal| cast(literal, &typed.data_type))
        }
        _ => Operand::Unknown,
    }
}

enum Sign {
    Plus,
    Minus,
}

/// A sign before a number; before anything else it is arithmetic.
fn signed(expr: &Expr, sign: Sign) -> Operand {
    let mut inside = bare(expr);
    while let Expr::Cast { expr, .. }
    | Expr::UnaryOp {
        op: UnaryOperator::Minus | UnaryOperator::Plus,
        expr,
    } = inside
    {
        inside = bare(expr);
    }
    let is_number =
        matches!(inside, Expr::Value(value) if matches!(value.value, Value::Number(..)));
    match operand(expr) {
        Operand::Literal {
            slot,
            negative,
            cast,
        } if is_number && cast.as_ref().is_none_or(is_number_type) => {
            let negative = match sign {
                Sign::Plus => negative,
                Sign::Minus => !negative,
            };
            Operand::Literal {
                slot,
                negative,
                cast,
            }
        }
        _ => Operand::Unknown,
    }
}

fn is_number_type(cast: &Cast) -> bool {
    matches!(&*cast.0, "int2" | "int4" | "int8" | "numeric")
}

fn cast(operand: Operand, to: &DataType) -> Operand {
    let Some(name) = type_name(to) else {
        return Operand::Unknown;
    };
    match operand {
        Operand::Null => Operand::Null,
        Operand::Literal {
            slot,
            negative,
            cast: None,
        } => Operand::Literal {
            slot,
            negative,
            cast: Some(Cast(name)),
        },
        Operand::Param { number, cast: None } => Operand::Param {
            number,
            cast: Some(Cast(name)),
        },
        // A second cast may change the value, and a column's cast the comparison.
        Operand::Literal { cast: Some(_), .. }
        | Operand::Param { cast: Some(_), .. }
        | Operand::Default
        | Operand::Column(_)
        | Operand::Unknown => Operand::Unknown,
    }
}

/// The base type's name in Postgres's spelling; `None` where a cast may change the value by a length or precision.
fn type_name(data_type: &DataType) -> Option<Box<str>> {
    let name = match data_type {
        DataType::SmallInt(None) | DataType::Int2(None) => "int2",
        DataType::Int(None) | DataType::Integer(None) | DataType::Int4(None) => "int4",
        DataType::BigInt(None) | DataType::Int8(None) => "int8",
        DataType::Text => "text",
        DataType::Varchar(None)
        | DataType::CharacterVarying(None)
        | DataType::CharVarying(None) => "varchar",
        DataType::Uuid => "uuid",
        DataType::Date => "date",
        DataType::Timestamp(None, TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) => {
            "timestamp"
        }
        DataType::Timestamp(None, TimezoneInfo::WithTimeZone | TimezoneInfo::Tz) => "timestamptz",
        DataType::Numeric(ExactNumberInfo::None)
        | DataType::Decimal(ExactNumberInfo::None)
        | DataType::Dec(ExactNumberInfo::None) => "numeric",
        DataType::Bytea => "bytea",
        DataType::Bool | DataType::Boolean => "bool",
        DataType::Real | DataType::Float4 => "float4",
        DataType::DoublePrecision
        | DataType::Float8
        | DataType::Float(ExactNumberInfo::None)
        | DataType::Double(ExactNumberInfo::None) => "float8",
        DataType::JSON => "json",
        DataType::JSONB => "jsonb",
        DataType::Regclass => "regclass",
        DataType::Time(None, TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) => "time",
        DataType::Array(
            ArrayElemTypeDef::SquareBracket(element, _) | ArrayElemTypeDef::Qualified(element, _),
        ) => {
            let element = type_name(element)?;
            return Some(if element.ends_with("[]") {
                element
            } else {
                format!("{element}[]").into()
            });
        }
        DataType::Custom(name, modifiers) if modifiers.is_empty() => return custom_type_name(name),
        // Lengths and precisions cut or round; `char` is `char(1)`.
        _ => return None,
    };
    Some(name.into())
}

fn custom_type_name(name: &ObjectName) -> Option<Box<str>> {
    let parts = identifiers(name).ok()?;
    let (schema, base) = match parts.as_slice() {
        [base] => (None, base),
        [schema, base] => (Some(fold(schema)), base),
        _ => return None,
    };
    let spelled = fold(base);
    if &*spelled == COLLATED {
        return None;
    }
    if let Some(schema) = schema.filter(|schema| &**schema != "pg_catalog") {
        return Some(format!("{schema}.{spelled}").into());
    }
    Some(match &*spelled {
        // "char", in quotes, is another type.
        "char" if base.quote_style.is_some() => "\"char\"".into(),
        "char" | "character" => return None,
        "int" | "integer" if base.quote_style.is_none() => "int4".into(),
        "bigint" if base.quote_style.is_none() => "int8".into(),
        "smallint" if base.quote_style.is_none() => "int2".into(),
        "decimal" | "dec" if base.quote_style.is_none() => "numeric".into(),
        _ => spelled,
    })
}
