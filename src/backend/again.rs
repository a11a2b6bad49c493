//! A unit of work as it was sent, under another name of one of its statements.

use super::prepared::NAME;
use crate::wire::frame::HEADER;
use crate::wire::message::Bind;

/// The messages one by one: type, body, whole. Ends before what is no whole message.
pub(super) fn messages(sent: &[u8]) -> impl Iterator<Item = (u8, &[u8], &[u8])> {
    let mut rest = sent;
    std::iter::from_fn(move || {
        let length = u32::from_be_bytes(rest.get(1..HEADER)?.try_into().ok()?) as usize;
        let (whole, after) = rest.split_at_checked(1 + length)?;
        rest = after;
        Some((whole[0], whole.get(HEADER..)?, whole))
    })
}

/// The name of the first of our statements that the unit binds.
pub fn first_use(sent: &[u8]) -> Option<&[u8]> {
    messages(sent).find_map(|(tag, body, _)| {
        let name = (tag == b'B').then(|| Bind::decode(body).ok())??.statement;
        name.starts_with(NAME.as_bytes()).then_some(name)
    })
}

/// The unit from its first use of the statement, which has another name now.
pub fn renamed(sent: &[u8], name: &[u8], new: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(sent.len() + new.len());
    for (tag, body, whole) in messages(sent) {
        match tag {
            b'B' if let Ok(bind) = Bind::decode(body)
                && bind.statement == name =>
            {
                bind.encode_as(bind.portal, new, &mut out);
            }
            // In front of it stands what brought the connection to the session's settings.
            _ if out.is_empty() => {}
            _ => out.extend_from_slice(whole),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::message;

    #[test]
    fn a_unit_under_another_name() {
        let mut sent = Vec::new();
        message::encode_query(b"SET x = 1", &mut sent);
        message::encode_bind_empty(b"", b"trunkline_12", &mut sent);
        message::encode_bind_empty(b"p", b"trunkline_1", &mut sent);
        message::encode_sync(&mut sent);
        assert_eq!(first_use(&sent), Some(&b"trunkline_12"[..]));
        let mut expected = Vec::new();
        message::encode_bind_empty(b"p", b"trunkline_7", &mut expected);
        message::encode_sync(&mut expected);
        assert_eq!(renamed(&sent, b"trunkline_1", b"trunkline_7"), expected);
    }
}
