//! Values of rows, as they wait to be applied: many in one piece of memory. Pure.

/// What is known of one column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field<'a> {
    Null,
    /// A value out of line that was not sent, because the statement did not touch it.
    Unchanged,
    /// As the type's output function writes it.
    Text(&'a str),
}

impl<'a> Field<'a> {
    pub fn text(self) -> Option<&'a str> {
        match self {
            Field::Text(text) => Some(text),
            Field::Null | Field::Unchanged => None,
        }
    }
}

/// Fields, one after the other. Equal when all fields are.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Values(Box<[u8]>);

const NULL: u8 = 0;
const UNCHANGED: u8 = 1;
const TEXT: u8 = 2;

impl Values {
    pub fn of(fields: &[Field<'_>]) -> Values {
        let length = |field: &Field<'_>| field.text().map_or(1, |text| text.len() + 5);
        let mut bytes = Vec::with_capacity(fields.iter().map(length).sum());
        for field in fields {
            match field {
                Field::Null => bytes.push(NULL),
                Field::Unchanged => bytes.push(UNCHANGED),
                Field::Text(text) => {
                    bytes.push(TEXT);
                    let length = u32::try_from(text.len()).expect("a message has up to 1 GB");
                    bytes.extend_from_slice(&length.to_ne_bytes());
                    bytes.extend_from_slice(text.as_bytes());
                }
            }
        }
        Values(bytes.into())
    }

    pub fn fields(&self) -> impl Iterator<Item = Field<'_>> {
        let mut rest = &*self.0;
        std::iter::from_fn(move || {
            let (kind, after) = rest.split_first()?;
            rest = after;
            Some(match *kind {
                NULL => Field::Null,
                UNCHANGED => Field::Unchanged,
                _ => {
                    let (length, after) = rest.split_first_chunk().expect("written so");
                    let length = u32::from_ne_bytes(*length) as usize;
                    let (text, after) = after.split_at(length);
                    rest = after;
                    Field::Text(std::str::from_utf8(text).expect("was a text"))
                }
            })
        })
    }

    /// Bytes of memory.
    pub fn size(&self) -> usize {
        self.0.len()
    }

    pub fn is_whole(&self) -> bool {
        self.fields().all(|field| field != Field::Unchanged)
    }

    /// With what was unchanged taken from an earlier row of the same columns.
    pub fn over(&self, earlier: &Values) -> Values {
        let fields: Vec<_> = { self.fields().zip(earlier.fields()) }
            .map(|(field, before)| match field {
                Field::Unchanged => before,
                field => field,
            })
            .collect();
        Values::of(&fields)
    }
}

impl std::fmt::Debug for Values {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.fields()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_kept() {
        let fields = [
            Field::Text("it's"),
            Field::Null,
            Field::Unchanged,
            Field::Text(""),
            Field::Text("é"),
        ];
        let values = Values::of(&fields);
        assert_eq!(values.fields().collect::<Vec<_>>(), fields);
        assert!(!values.is_whole());
        let earlier = Values::of(&[Field::Text("before"); 5]);
        let whole = values.over(&earlier);
        let mut expected = fields;
        expected[2] = Field::Text("before");
        assert_eq!(whole.fields().collect::<Vec<_>>(), expected);
        assert_ne!(values, whole);
        assert!(whole.is_whole());
    }
}
