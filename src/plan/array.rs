//! One-dimensional arrays, as clients send them for `key = ANY ($1)`: the text form `{1,2,NULL,"a b"}` and the binary form.
//!
//! Sources: the manual's "Array Input and Output Syntax", and `array_recv` in `src/backend/utils/adt/arrayfuncs.c`.

use crate::sharding::KeyType;

/// Why an array is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArrayError {
    #[error("it is not an array of one dimension")]
    Shape,
    #[error("its array has an element of another type")]
    ElementType,
    #[error("its array has more than {MOST_ELEMENTS} elements")]
    TooLong,
}

/// What `array_isspace` takes for white space; other blanks belong to an element.
const SPACE: [char; 6] = [' ', '\t', '\n', '\r', '\x0b', '\x0c'];

const MOST_ELEMENTS: usize = 65_536;

/// The element type of an array type's OID in `pg_type`.
pub fn element_of_oid(oid: u32) -> Option<KeyType> {
    Some(match oid {
        1005 => KeyType::SmallInt,
        1007 => KeyType::Integer,
        1016 => KeyType::BigInt,
        1009 => KeyType::Text,
        1015 => KeyType::VarChar,
        1014 => KeyType::Char,
        2951 => KeyType::Uuid,
        1182 => KeyType::Date,
        1115 => KeyType::Timestamp,
        1185 => KeyType::TimestampTz,
        1231 => KeyType::Numeric,
        1001 => KeyType::Bytea,
        _ => return None,
    })
}

/// The array type's OID of elements of this type.
pub fn oid_of_element(element: KeyType) -> Option<u32> {
    (1000..3000).find(|oid| element_of_oid(*oid) == Some(element))
}

/// The elements; `None` is NULL.
pub fn of_text(text: &str) -> Result<Vec<Option<String>>, ArrayError> {
    let inside = text
        .trim_matches(SPACE)
        .strip_prefix('{')
        .and_then(|rest| rest.strip_suffix('}'))
        .ok_or(ArrayError::Shape)?;
    let mut elements = Vec::new();
    let mut rest = inside.trim_start_matches(SPACE);
    if rest.is_empty() {
        return Ok(elements);
    }
    loop {
        if elements.len() == MOST_ELEMENTS {
            return Err(ArrayError::TooLong);
        }
        let (element, after) = if rest.starts_with('"') {
            quoted(rest)?
        } else {
            bare(rest)?
        };
        elements.push(element);
        match after.trim_start_matches(SPACE).strip_prefix(',') {
            Some(next) => rest = next.trim_start_matches(SPACE),
            None if after.trim_start_matches(SPACE).is_empty() => return Ok(elements),
            None => return Err(ArrayError::Shape),
        }
    }
}

fn quoted(text: &str) -> Result<(Option<String>, &str), ArrayError> {
    let mut element = String::new();
    let mut characters = text.char_indices().skip(1);
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Ok((Some(element), &text[at + 1..])),
            '\\' => element.push(characters.next().ok_or(ArrayError::Shape)?.1),
            other => element.push(other),
        }
    }
    Err(ArrayError::Shape)
}

/// An element without quotes. One with a backslash, a quote or a brace inside is left to servers.
fn bare(text: &str) -> Result<(Option<String>, &str), ArrayError> {
    let end = text.find([',', '{', '}', '"', '\\']).unwrap_or(text.len());
    let (element, after) = text.split_at(end);
    let element = element.trim_end_matches(SPACE);
    if element.is_empty() || after.starts_with(['{', '}', '"', '\\']) {
        return Err(ArrayError::Shape);
    }
    Ok((
        if element.eq_ignore_ascii_case("null") {
            None
        } else {
            Some(element.to_owned())
        },
        after,
    ))
}

/// The raw elements; `None` is NULL.
pub fn of_binary(raw: &[u8], element: KeyType) -> Result<Vec<Option<&[u8]>>, ArrayError> {
    let mut rest = raw;
    let dimensions = int(&mut rest)?;
    let _has_nulls = int(&mut rest)?;
    if u32::from_be_bytes(int(&mut rest)?.to_be_bytes()) != element.oid() {
        return Err(ArrayError::ElementType);
    }
    match dimensions {
        0 if rest.is_empty() => return Ok(Vec::new()),
        1 => {}
        _ => return Err(ArrayError::Shape),
    }
    let count = usize::try_from(int(&mut rest)?).map_err(|_| ArrayError::Shape)?;
    let _lower_bound = int(&mut rest)?;
    if count > MOST_ELEMENTS {
        return Err(ArrayError::TooLong);
    }
    let mut elements = Vec::new();
    for _ in 0..count {
        elements.push(match int(&mut rest)? {
            -1 => None,
            length => {
                let length = usize::try_from(length).map_err(|_| ArrayError::Shape)?;
                let (element, after) = rest.split_at_checked(length).ok_or(ArrayError::Shape)?;
                rest = after;
                Some(element)
            }
        });
    }
    if rest.is_empty() {
        Ok(elements)
    } else {
        Err(ArrayError::Shape)
    }
}

fn int(rest: &mut &[u8]) -> Result<i32, ArrayError> {
    let (int, after) = rest.split_first_chunk::<4>().ok_or(ArrayError::Shape)?;
    *rest = after;
    Ok(i32::from_be_bytes(*int))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_arrays() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(of_text("{}"), Ok(vec![]));
        assert_eq!(
            of_text(" { 1 , 2,NULL } "),
            Ok(vec![some("1"), some("2"), None])
        );
        assert_eq!(
            of_text(r#"{"a,b","c\"d\\", "null" ,e f}"#),
            Ok(vec![
                some("a,b"),
                some(r#"c"d\"#),
                some("null"),
                some("e f")
            ])
        );
        assert_eq!(of_text("{\u{a0}x\u{a0}}"), Ok(vec![some("\u{a0}x\u{a0}")]));
        for wrong in [
            "",
            "1",
            "{1",
            "{{1},{2}}",
            "[1:2]={1,2}",
            "{1,}",
            "{,1}",
            r#"{"a"#,
            r#"{"a"b}"#,
            "{1}}",
            r"{a\b}",
        ] {
            assert_eq!(of_text(wrong), Err(ArrayError::Shape), "{wrong}");
        }
    }

    #[test]
    fn binary_arrays() {
        let array = |dimensions: i32, oid: i32, rest: &[&[u8]]| {
            [
                &dimensions.to_be_bytes()[..],
                &[0; 4],
                &oid.to_be_bytes(),
                &rest.concat(),
            ]
            .concat()
        };
        let two = array(
            1,
            20,
            &[
                &[0, 0, 0, 2],
                &[0, 0, 0, 1],
                &[0, 0, 0, 8],
                &[0, 0, 0, 0, 0, 0, 0, 5],
                &[255; 4],
            ],
        );
        assert_eq!(
            of_binary(&two, KeyType::BigInt),
            Ok(vec![Some(&[0, 0, 0, 0, 0, 0, 0, 5][..]), None])
        );
        assert_eq!(
            of_binary(&two, KeyType::Integer),
            Err(ArrayError::ElementType)
        );
        assert_eq!(of_binary(&array(0, 20, &[]), KeyType::BigInt), Ok(vec![]));
        assert_eq!(
            of_binary(&array(2, 20, &[&two[12..]]), KeyType::BigInt),
            Err(ArrayError::Shape)
        );
        for end in 0..two.len() {
            assert!(
                of_binary(&two[..end], KeyType::BigInt).is_err(),
                "cut at {end}"
            );
        }
        // A count that no message can hold makes no room in advance.
        let huge = array(1, 20, &[&i32::MAX.to_be_bytes(), &[0, 0, 0, 1]]);
        assert_eq!(of_binary(&huge, KeyType::BigInt), Err(ArrayError::TooLong));
    }
}
