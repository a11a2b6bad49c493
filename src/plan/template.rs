//! Texts as templates: the fast way into the plan cache.
//!
//! A text that differs from a template only inside its plain numbers and plain strings has the same normal form, so the same plan.
//! To see that takes a comparison of the parts between them, which is several times cheaper than to read the text anew.
//!
//! Why that is exact: the lexer goes from left to right and decides where an element ends by the bytes around it. The parts between the
//! literals are equal, a number is a whole run of digits followed by a byte that cannot belong to it ([`ends_number`]), and a string ends at
//! its first quote, which is followed by the same byte as in the template, and that is no quote. So every element begins and ends as in
//! the template. All bytes are ASCII, so the text is UTF-8.

use std::rc::Rc;

use super::Planned;
use crate::catalog::SearchPath;
use crate::sql::lexer::LiteralKind;
use crate::sql::normalise::Literal;

/// How many templates a cache has.
const PLACES: usize = 256;

/// Longer texts are no templates.
const LONGEST: usize = 1024;

/// A place that was asked for so often is not given to another text at its first wish.
const MOST_MERIT: u8 = 8;

/// Texts that were planned lately. At most [`PLACES`] times [`LONGEST`] bytes, beside the plans.
pub(super) struct Templates(Vec<Option<Template>>);

struct Template {
    text: Box<[u8]>,
    literals: Box<[Literal]>,
    path: SearchPath,
    planned: Rc<Planned>,
    merit: u8,
}

impl Templates {
    pub(super) fn new() -> Templates {
        Templates(Vec::new())
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// The plans of a text of which there is a template, and its literals. `literals` is of no meaning when there is none.
    pub(super) fn find(
        &mut self,
        text: &[u8],
        path: &SearchPath,
        literals: &mut Vec<Literal>,
    ) -> Option<Rc<Planned>> {
        if self.0.is_empty() {
            return None;
        }
        let place = place(text);
        for place in [place, place ^ 1] {
            if let Some(template) = &mut self.0[place]
                && template.fits(text, literals)
                && super::cache::same_path(&template.path, path)
            {
                template.merit = (template.merit + 1).min(MOST_MERIT);
                return Some(Rc::clone(&template.planned));
            }
        }
        None
    }

    /// Makes a template of a text, when it is fit for one and its place is free, or was of little use.
    pub(super) fn offer(
        &mut self,
        text: &[u8],
        literals: &[Literal],
        path: &SearchPath,
        planned: &Rc<Planned>,
    ) {
        if !is_fit(text, literals) {
            return;
        }
        if self.0.is_empty() {
            self.0.resize_with(PLACES, || None);
        }
        let place = place(text);
        let merit = |place: usize| self.0[place].as_ref().map_or(0, |known| known.merit + 1);
        let place = if merit(place) <= merit(place ^ 1) {
            place
        } else {
            place ^ 1
        };
        match &mut self.0[place] {
            Some(known) if known.merit > 0 => known.merit -= 1,
            free => {
                *free = Some(Template {
                    text: text.into(),
                    literals: literals.into(),
                    path: path.clone(),
                    planned: Rc::clone(planned),
                    merit: 1,
                })
            }
        }
    }
}

impl Template {
    #[inline]
    fn fits(&self, text: &[u8], literals: &mut Vec<Literal>) -> bool {
        literals.clear();
        // How far both have been compared.
        let (mut known, mut at) = (0, 0);
        for literal in &self.literals {
            let between = &self.text[known..literal.start as usize];
            let start = at + between.len();
            if text.get(at..start) != Some(between) {
                return false;
            }
            let Some(length) = literal_length(literal.kind, &text[start..]) else {
                return false;
            };
            at = start + length;
            known = literal.end as usize;
            literals.push(Literal {
                start: start as u32,
                end: at as u32,
                kind: literal.kind,
            });
        }
        text[at..] == self.text[known..]
    }
}

/// The length of a literal of this kind at the front of `text`.
#[inline]
fn literal_length(kind: LiteralKind, text: &[u8]) -> Option<usize> {
    match kind {
        LiteralKind::Integer => {
            let digits = text
                .iter()
                .position(|byte| !byte.is_ascii_digit())
                .unwrap_or(text.len());
            (digits > 0).then_some(digits)
        }
        LiteralKind::Text => {
            let content = text.strip_prefix(b"'")?;
            let length = memchr::memchr(b'\'', content)?;
            content[..length].is_ascii().then_some(length + 2)
        }
        _ => None,
    }
}

fn is_fit(text: &[u8], literals: &[Literal]) -> bool {
    text.len() <= LONGEST
        && text.is_ascii()
        && literals.iter().all(|literal| {
            let after = text.get(literal.end as usize);
            match literal.kind {
                LiteralKind::Integer => after.is_none_or(|byte| ends_number(*byte)),
                LiteralKind::Text => {
                    let content = &text[literal.start as usize + 1..literal.end as usize - 1];
                    !content.contains(&b'\'')
                }
                _ => false,
            }
        })
}

/// A number, whatever its digits are, ends before this byte.
fn ends_number(byte: u8) -> bool {
    matches!(byte, b' ' | b'\n' | b')' | b',' | b';')
}

/// Where the template of a text is looked for: by what stands before its first digit or quote, as far as that can be seen in steps of 8
/// bytes.
fn place(text: &[u8]) -> usize {
    /// Bytes looked at.
    const SEEN: usize = 256;
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    const HIGH: u64 = u64::from_le_bytes([0x80; 8]);
    let (steps, _) = text[..text.len().min(SEEN)].as_chunks::<8>();
    let mut hash = 0_u64;
    for step in steps {
        let step = u64::from_le_bytes(*step);
        // Bit 7 of each byte: at least '0' but not above '9'; equal to a quote. A byte that is not ASCII may upset its neighbours: no matter.
        let digits = step.wrapping_add(ONES * 0x50) & !step.wrapping_add(ONES * 0x46);
        let quotes = step ^ (ONES * u64::from(b'\''));
        let quotes = quotes.wrapping_sub(ONES) & !quotes;
        if (digits | quotes) & HIGH != 0 {
            break;
        }
        hash = (hash ^ step).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        hash ^= hash >> 32;
    }
    hash as usize % PLACES
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::golden::search_path;
    use crate::sql::normalise::normalise;
    use proptest::prelude::*;

    fn normal(text: &str) -> Option<(Vec<u8>, Vec<Literal>)> {
        let (mut normal, mut literals) = (Vec::new(), Vec::new());
        normalise(text.as_bytes(), &mut normal, &mut literals).ok()?;
        Some((normal, literals))
    }

    fn nothing() -> Rc<Planned> {
        Rc::new(Planned {
            statements: Vec::new(),
        })
    }

    fn found(known: &str, text: &str) -> Option<Vec<Literal>> {
        let mut templates = Templates::new();
        let path = search_path(&["public"]);
        let (_, literals) = normal(known)?;
        templates.offer(known.as_bytes(), &literals, &path, &nothing());
        let mut literals = Vec::new();
        templates.find(text.as_bytes(), &path, &mut literals)?;
        Some(literals)
    }

    #[test]
    fn only_the_inside_of_plain_literals_may_differ() {
        let known = "SELECT * FROM t WHERE a = 5 AND b = 'x' AND c IN (1, 2);";
        let fits = |text: &str| found(known, text).is_some();
        assert!(fits(known));
        assert!(fits(
            "SELECT * FROM t WHERE a = 0123456789 AND b = '' AND c IN (10, 200);"
        ));
        for other in [
            "SELECT * FROM t WHERE a = 5.0 AND b = 'x' AND c IN (1, 2);",
            "SELECT * FROM t WHERE a = 5x AND b = 'x' AND c IN (1, 2);",
            "SELECT * FROM t WHERE a = 0x5 AND b = 'x' AND c IN (1, 2);",
            "SELECT * FROM t WHERE a =  AND b = 'x' AND c IN (1, 2);",
            "SELECT * FROM t WHERE a = 5 AND b = 'x''y' AND c IN (1, 2);",
            "SELECT * FROM t WHERE a = 5 AND b = 'ö' AND c IN (1, 2);",
            "SELECT * FROM t WHERE a = 5 AND b = 'x' AND c IN (1, 2)",
            "SELECT * FROM t WHERE a = 5 AND b = 'x' AND c IN (1, 2);;",
            "SELECT * FROM t WHERE a = 5 AND b = 'x",
            "SELECT * FROM t WHERE a",
            "",
        ] {
            assert!(!fits(other), "{other}");
        }
        assert_eq!(found("SELECT 1e5", "SELECT 2e5"), None);
        assert_eq!(found("SELECT 1-2", "SELECT 3-4"), None);
        assert_eq!(found("SELECT E'a'", "SELECT E'b'"), None);
    }

    #[test]
    fn another_search_path_has_another_plan() {
        let mut templates = Templates::new();
        let text = b"SELECT 1";
        let (_, literals) = normal("SELECT 1").expect("readable");
        templates.offer(text, &literals, &search_path(&["public"]), &nothing());
        let mut out = Vec::new();
        let mut finds =
            |path: &[&str]| templates.find(text, &search_path(path), &mut out).is_some();
        assert!(finds(&["public"]));
        assert!(!finds(&["other"]));
    }

    #[test]
    fn a_template_of_use_is_not_pushed_out_by_texts_that_come_once() {
        let mut templates = Templates::new();
        let path = search_path(&["public"]);
        let (_, literals) = normal("SELECT 1").expect("readable");
        let mut out = Vec::new();
        templates.offer(b"SELECT 1", &literals, &path, &nothing());
        for _ in 0..10 {
            assert!(templates.find(b"SELECT 2", &path, &mut out).is_some());
        }
        // The same place, both ways of it: what stands before the first digit is the same.
        for other in ["SELECT 1 AS a", "SELECT 1 AS b", "SELECT 1 AS c"] {
            templates.offer(other.as_bytes(), &literals, &path, &nothing());
        }
        assert!(templates.find(b"SELECT 3", &path, &mut out).is_some());
    }

    proptest! {
        /// Whatever fits a template has its normal form, and the literals that the lexer finds.
        #[test]
        fn what_fits_has_the_same_normal_form(
            known in "[a-c0-2 ',;()$.\"=\\-\n/*eExX_:&]{0,24}",
            text in "[a-c0-2 ',;()$.\"=\\-\n/*eExX_:&]{0,24}",
            digits in "[0-9]{1,3}",
        ) {
            // Random texts seldom fit each other: others are made of the template, its numbers or letters changed.
            let renumbered: String = known
                .split_inclusive(|c: char| !c.is_ascii_digit())
                .map(|part| match part.find(|c: char| !c.is_ascii_digit()) {
                    Some(0) => part.to_owned(),
                    Some(end) => format!("{digits}{}", &part[end..]),
                    None => digits.clone(),
                })
                .collect();
            let relettered = known.replace('a', &digits);
            for text in [text, renumbered, relettered, known.clone()] {
                if let Some(literals) = found(&known, &text) {
                    let (known_form, _) = normal(&known).expect("it is a template");
                    let (form, expected) = normal(&text).expect("as readable as its template");
                    prop_assert_eq!(&form, &known_form, "{:?} {:?}", known, text);
                    prop_assert_eq!(literals, expected, "{:?} {:?}", known, text);
                }
            }
        }
    }
}
