//! Captured bytes of a Postgres server, messages composed here field by field, and bytes that are none.

use std::fmt::Write as _;
use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

// --- What a server has said ---

/// `testdata/postgres15.txt`: sections with the options, then each message in hexadecimal digits, with what it means above it.
/// `UPDATE_GOLDEN=1` writes the meanings anew.
#[test]
fn a_server_s_own_bytes() {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("src/wire/replication/testdata/postgres15.txt");
    let text = std::fs::read_to_string(&path).unwrap();
    let mut decoder = Decoder::new(ProtocolVersion::V1, Streaming::Off);
    let mut expected = String::new();
    for line in text.lines() {
        if let Some(section) = line.strip_prefix("== ") {
            let version = match section.split(',').next() {
                Some("version 1") => ProtocolVersion::V1,
                Some("version 2") => ProtocolVersion::V2,
                Some("version 3") => ProtocolVersion::V3,
                other => panic!("{other:?}"),
            };
            let streaming = match section.contains("streaming on") {
                true => Streaming::On,
                false => Streaming::Off,
            };
            decoder = Decoder::new(version, streaming);
        } else if line.bytes().all(|byte| byte.is_ascii_hexdigit()) && !line.is_empty() {
            let bytes = from_hex(line);
            let message = decoder
                .decode(&bytes)
                .unwrap_or_else(|error| panic!("{error}: {line}"));
            writeln!(expected, "{}", meaning(&message)).unwrap();
        } else if !line.starts_with('#') {
            continue;
        }
        writeln!(expected, "{line}").unwrap();
    }
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &expected).unwrap();
        return;
    }
    assert!(text == expected, "{expected}");
}

fn from_hex(digits: &str) -> Vec<u8> {
    let (pairs, []) = digits.as_bytes().as_chunks::<2>() else {
        panic!("an odd number of digits")
    };
    let pair = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    pairs.iter().map(pair).collect()
}

fn meaning(message: &Message<'_>) -> String {
    match message {
        Message::Relation { scope, relation } => {
            let columns: Vec<String> = relation.columns.map(|c| format!("{c:?}")).collect();
            format!(
                ">> Relation {scope:?} {:?} {:?}.{:?} {:?}\n>>     {}",
                relation.id,
                relation.schema,
                relation.name,
                relation.identity,
                columns.join("\n>>     ")
            )
        }
        Message::Insert {
            scope,
            relation,
            row,
        } => format!(">> Insert {scope:?} {relation:?} {}", values(*row)),
        Message::Update {
            scope,
            relation,
            old,
            new,
        } => format!(
            ">> Update {scope:?} {relation:?} {} -> {}",
            old.map_or("unsaid".to_owned(), identity),
            values(*new)
        ),
        Message::Delete {
            scope,
            relation,
            old,
        } => format!(">> Delete {scope:?} {relation:?} {}", identity(*old)),
        Message::Message {
            scope,
            emission,
            lsn,
            prefix,
            content,
        } => format!(
            ">> Message {scope:?} {emission:?} {lsn} {prefix:?} {}",
            content.escape_ascii()
        ),
        other => format!(">> {other:?}"),
    }
}

fn identity(old: Identity<'_>) -> String {
    match old {
        Identity::Key(row) => format!("key {}", values(row)),
        Identity::Row(row) => format!("row {}", values(row)),
    }
}

fn values(row: Row<'_>) -> String {
    let shown = |bytes: &[u8]| match bytes.len() {
        0..=40 => format!("{:?}", bytes.escape_ascii().to_string()),
        length => format!("{length} bytes"),
    };
    let one = |value| match value {
        Value::Null => "null".to_owned(),
        Value::Unchanged => "unchanged".to_owned(),
        Value::Text(text) => shown(text),
        Value::Binary(bytes) => format!("binary {}", shown(bytes)),
    };
    let all: Vec<String> = row.values().map(one).collect();
    format!("({})", all.join(", "))
}

// --- Composed here ---

/// An encoder of our own, after the chapter of the manual and not after the decoder.
#[derive(Default)]
struct Wire(Vec<u8>);

impl Wire {
    fn of(kind: u8) -> Wire {
        Wire(vec![kind])
    }

    fn u8(mut self, value: u8) -> Wire {
        self.0.push(value);
        self
    }

    fn u32(mut self, value: u32) -> Wire {
        self.0.extend(value.to_be_bytes());
        self
    }

    fn u64(mut self, value: u64) -> Wire {
        self.0.extend(value.to_be_bytes());
        self
    }

    fn text(mut self, text: &str) -> Wire {
        self.0.extend(text.bytes());
        self.u8(0)
    }

    fn xid_in(self, scope: Scope) -> Wire {
        match scope {
            Scope::Whole => self,
            Scope::Streamed(xid) => self.u32(xid.0),
        }
    }

    fn row(mut self, values: &[OwnedValue]) -> Wire {
        self.0.extend((values.len() as u16).to_be_bytes());
        for value in values {
            self = match value {
                OwnedValue::Null => self.u8(b'n'),
                OwnedValue::Unchanged => self.u8(b'u'),
                OwnedValue::Text(bytes) => self.u8(b't').counted(bytes),
                OwnedValue::Binary(bytes) => self.u8(b'b').counted(bytes),
            };
        }
        self
    }

    fn counted(mut self, bytes: &[u8]) -> Wire {
        self = self.u32(bytes.len() as u32);
        self.0.extend(bytes);
        self
    }
}

#[derive(Clone, Debug, PartialEq)]
enum OwnedValue {
    Null,
    Unchanged,
    Text(Vec<u8>),
    Binary(Vec<u8>),
}

fn owned(row: Row<'_>) -> Vec<OwnedValue> {
    let one = |value| match value {
        Value::Null => OwnedValue::Null,
        Value::Unchanged => OwnedValue::Unchanged,
        Value::Text(bytes) => OwnedValue::Text(bytes.to_vec()),
        Value::Binary(bytes) => OwnedValue::Binary(bytes.to_vec()),
    };
    assert_eq!(row.values().len(), row.len());
    row.values().map(one).collect()
}

/// A decoder that stands where a change of this scope may come.
fn decoder_in(scope: Scope) -> Decoder {
    let mut decoder = Decoder::new(ProtocolVersion::V4, Streaming::Parallel);
    let opening = match scope {
        Scope::Whole => Wire::of(b'B').u64(1).u64(2).u32(3),
        Scope::Streamed(_) => Wire::of(b'S').u32(3).u8(1),
    };
    decoder.decode(&opening.0).unwrap();
    decoder
}

fn any_scope() -> impl Strategy<Value = Scope> {
    prop_oneof![
        Just(Scope::Whole),
        any::<u32>().prop_map(|xid| Scope::Streamed(Xid(xid)))
    ]
}

fn any_row() -> impl Strategy<Value = Vec<OwnedValue>> {
    let value = prop_oneof![
        Just(OwnedValue::Null),
        Just(OwnedValue::Unchanged),
        vec(any::<u8>(), 0..20).prop_map(OwnedValue::Text),
        vec(any::<u8>(), 0..20).prop_map(OwnedValue::Binary),
    ];
    vec(value, 0..12)
}

fn any_text() -> impl Strategy<Value = String> {
    "[^\0]{0,12}"
}

fn column_of(column: &OwnedColumn) -> Column<'_> {
    Column {
        name: &column.name,
        type_oid: column.type_oid,
        modifier: column.modifier,
        key: column.key,
    }
}

fn any_relation() -> impl Strategy<Value = OwnedRelation> {
    let column = (any_text(), any::<u32>(), any::<i32>(), any::<bool>()).prop_map(
        |(name, type_oid, modifier, key)| OwnedColumn {
            name,
            type_oid,
            modifier,
            key: if key { KeyPart::Key } else { KeyPart::Other },
        },
    );
    let identity = prop_oneof![
        Just(ReplicaIdentity::Default),
        Just(ReplicaIdentity::Nothing),
        Just(ReplicaIdentity::Full),
        Just(ReplicaIdentity::Index),
    ];
    (
        any::<u32>(),
        any_text(),
        any_text(),
        identity,
        vec(column, 0..10),
    )
        .prop_map(|(id, schema, name, identity, columns)| OwnedRelation {
            id: RelationId(id),
            schema,
            name,
            identity,
            columns,
        })
}

fn encode_relation(scope: Scope, relation: &OwnedRelation) -> Vec<u8> {
    let mut wire = Wire::of(b'R')
        .xid_in(scope)
        .u32(relation.id.0)
        .text(&relation.schema)
        .text(&relation.name)
        .u8(match relation.identity {
            ReplicaIdentity::Default => b'd',
            ReplicaIdentity::Nothing => b'n',
            ReplicaIdentity::Full => b'f',
            ReplicaIdentity::Index => b'i',
        });
    wire.0.extend((relation.columns.len() as u16).to_be_bytes());
    for column in &relation.columns {
        wire = wire
            .u8(u8::from(column.key == KeyPart::Key))
            .text(&column.name)
            .u32(column.type_oid)
            .u32(column.modifier.cast_unsigned());
    }
    wire.0
}

proptest! {
    #[test]
    fn rows_come_back_as_they_were(scope in any_scope(), oid: u32, old in any_row(), new in any_row(), kind in 0usize..3) {
        let relation = RelationId(oid);
        let mut decoder = decoder_in(scope);
        let insert = Wire::of(b'I').xid_in(scope).u32(oid).u8(b'N').row(&new);
        match decoder.decode(&insert.0).unwrap() {
            Message::Insert { scope: s, relation: r, row } => {
                prop_assert_eq!((s, r, owned(row)), (scope, relation, new.clone()));
            }
            other => prop_assert!(false, "{other:?}"),
        }
        let tag = [b'K', b'O', 0][kind];
        let head = Wire::of(b'U').xid_in(scope).u32(oid);
        let head = if tag == 0 { head } else { head.u8(tag).row(&old) };
        match decoder.decode(&head.u8(b'N').row(&new).0).unwrap() {
            Message::Update { scope: s, relation: r, old: o, new: n } => {
                prop_assert_eq!((s, r, owned(n)), (scope, relation, new));
                match (tag, o) {
                    (b'K', Some(Identity::Key(row))) | (b'O', Some(Identity::Row(row))) => prop_assert_eq!(owned(row), old.clone()),
                    (0, None) => {}
                    other => prop_assert!(false, "{other:?}"),
                }
            }
            other => prop_assert!(false, "{other:?}"),
        }
        let delete = Wire::of(b'D').xid_in(scope).u32(oid).u8(b'O').row(&old);
        match decoder.decode(&delete.0).unwrap() {
            Message::Delete { scope: s, relation: r, old: Identity::Row(row) } => {
                prop_assert_eq!((s, r, owned(row)), (scope, relation, old));
            }
            other => prop_assert!(false, "{other:?}"),
        }
    }

    #[test]
    fn relations_come_back_as_they_were(scope in any_scope(), mut relation in any_relation()) {
        let bytes = encode_relation(scope, &relation);
        match decoder_in(scope).decode(&bytes).unwrap() {
            Message::Relation { scope: s, relation: r } => {
                prop_assert_eq!(s, scope);
                prop_assert!(r.columns.eq(relation.columns.iter().map(column_of)));
                if relation.schema.is_empty() {
                    relation.schema = "pg_catalog".to_owned();
                }
                prop_assert_eq!(r.to_owned(), relation);
            }
            other => prop_assert!(false, "{other:?}"),
        }
    }

    #[test]
    fn truncates_types_and_messages_come_back_as_they_were(
        scope in any_scope(), oids in vec(any::<u32>(), 0..6), options in 0u8..4, name in any_text(), lsn: u64, content in vec(any::<u8>(), 0..40),
    ) {
        let mut decoder = decoder_in(scope);
        let mut wire = Wire::of(b'T').xid_in(scope).u32(oids.len() as u32).u8(options);
        for oid in &oids {
            wire = wire.u32(*oid);
        }
        match decoder.decode(&wire.0).unwrap() {
            Message::Truncate { scope: s, relations, cascade, sequences } => {
                prop_assert_eq!(s, scope);
                prop_assert!(relations.iter().eq(oids.iter().copied().map(RelationId)));
                prop_assert_eq!(cascade, options & 1 > 0);
                prop_assert_eq!(sequences == Restart::Restart, options & 2 > 0);
            }
            other => prop_assert!(false, "{other:?}"),
        }
        let wire = Wire::of(b'Y').xid_in(scope).u32(7).text("s").text(&name);
        prop_assert_eq!(decoder.decode(&wire.0), Ok(Message::Type { scope, oid: 7, schema: "s", name: &name }));
        let wire = Wire::of(b'M').xid_in(scope).u8(1).u64(lsn).text(&name).counted(&content);
        let message = Message::Message { scope, emission: Emission::Transactional, lsn: Lsn(lsn), prefix: &name, content: &content };
        prop_assert_eq!(decoder.decode(&wire.0), Ok(message));
    }

    /// With each of the types in front, so that the fields behind it are read.
    #[test]
    fn no_bytes_make_it_panic(kind in prop_oneof![4 => proptest::sample::select(b"BCORYIUDTMSEcAbPKrp".to_vec()), 1 => any::<u8>()],
                              scope in any_scope(), mut body in vec(prop_oneof![any::<u8>(), 0u8..4, proptest::sample::select(b"KONtnubdfi".to_vec())], 0..80)) {
        body.insert(0, kind);
        for mut decoder in [decoder_in(scope), Decoder::new(ProtocolVersion::V4, Streaming::Parallel), Decoder::new(ProtocolVersion::V1, Streaming::Off)] {
            let Ok(message) = decoder.decode(&body) else { continue };
            let rows = match message {
                Message::Insert { row, .. } => vec![row],
                Message::Update { old, new, .. } => old.map(Identity::row).into_iter().chain([new]).collect(),
                Message::Delete { old, .. } => vec![old.row()],
                Message::Relation { relation, .. } => {
                    prop_assert_eq!(relation.columns.count(), relation.columns.len());
                    vec![]
                }
                Message::Truncate { relations, .. } => {
                    prop_assert!(relations.iter().count() * 4 < body.len());
                    vec![]
                }
                _ => vec![],
            };
            for row in rows {
                prop_assert_eq!(row.values().count(), row.len());
            }
        }
        let _ = CopyBoth::decode(&body);
    }

    /// Every message but one whose last field goes to its end is an error when anything is cut off or added.
    #[test]
    fn nothing_is_cut_off_or_added_unseen(scope in any_scope(), relation in any_relation(), row in any_row(), cut in 1usize..1000) {
        for bytes in [
            encode_relation(scope, &relation),
            Wire::of(b'I').xid_in(scope).u32(1).u8(b'N').row(&row).0,
            Wire::of(b'T').xid_in(scope).u32(1).u8(0).u32(1).0,
            Wire::of(b'M').xid_in(scope).u8(1).u64(1).text("p").counted(b"content").0,
            Wire::of(b'O').u64(1).text("origin").0,
        ] {
            prop_assert!(decoder_in(scope).decode(&bytes).is_ok());
            let end = bytes.len() - 1 - cut % (bytes.len() - 1);
            prop_assert!(decoder_in(scope).decode(&bytes[..end]).is_err());
            let mut longer = bytes.clone();
            longer.push(0);
            let error = decoder_in(scope).decode(&longer).unwrap_err();
            prop_assert_eq!(error, DecodeError::TrailingBytes { at: bytes.len(), left: 1 });
        }
    }
}

#[test]
fn beginnings_and_ends() {
    let new = || Decoder::new(ProtocolVersion::V4, Streaming::Parallel);
    let (lsn, end, time, xid) = (Lsn(0x10), Lsn(0x20), Timestamp(-5), Xid(77));
    let at = |wire: Wire| wire.u64(0x10).u64(0x20).u64(u64::MAX - 4);
    let prepared = Prepared {
        prepare: lsn,
        end,
        at: time,
        xid,
        gid: "g",
    };
    let cases = [
        (
            Wire::of(b'S').u32(77).u8(0),
            Message::StreamStart {
                xid,
                segment: Segment::Further,
            },
        ),
        (
            at(Wire::of(b'c').u32(77).u8(0)),
            Message::StreamCommit {
                xid,
                commit: lsn,
                end,
                committed_at: time,
            },
        ),
        (
            Wire::of(b'A').u32(77).u32(78).u64(9).u64(10),
            Message::StreamAbort {
                xid,
                subtransaction: Xid(78),
                report: Some(AbortReport {
                    lsn: Lsn(9),
                    at: Timestamp(10),
                }),
            },
        ),
        (
            at(Wire::of(b'b')).u32(77).text("g"),
            Message::BeginPrepare(prepared),
        ),
        (
            at(Wire::of(b'p').u8(0)).u32(77).text("g"),
            Message::StreamPrepare(prepared),
        ),
        (
            at(Wire::of(b'K').u8(0)).u32(77).text("g"),
            Message::CommitPrepared {
                commit: lsn,
                end,
                committed_at: time,
                xid,
                gid: "g",
            },
        ),
        (
            Wire::of(b'r')
                .u8(0)
                .u64(1)
                .u64(2)
                .u64(3)
                .u64(4)
                .u32(77)
                .text("g"),
            Message::RollbackPrepared {
                prepare_end: Lsn(1),
                end: Lsn(2),
                prepared_at: Timestamp(3),
                rolled_back_at: Timestamp(4),
                xid,
                gid: "g",
            },
        ),
    ];
    for (wire, message) in cases {
        assert_eq!(new().decode(&wire.0), Ok(message));
        for end in 0..wire.0.len() {
            assert!(new().decode(&wire.0[..end]).is_err(), "{message:?} {end}");
        }
    }
    // The same message is shorter where streams are not parallel.
    for (version, streaming) in [
        (ProtocolVersion::V4, Streaming::On),
        (ProtocolVersion::V3, Streaming::Parallel),
    ] {
        let mut decoder = Decoder::new(version, streaming);
        let short = Wire::of(b'A').u32(77).u32(77);
        assert!(matches!(
            decoder.decode(&short.0),
            Ok(Message::StreamAbort { report: None, .. })
        ));
    }
}

#[test]
fn what_has_no_place_is_refused() {
    let begin = || Wire::of(b'B').u64(1).u64(2).u32(3).0;
    let commit = || Wire::of(b'C').u8(0).u64(1).u64(2).u64(3).0;
    let insert = || Wire::of(b'I').u32(1).u8(b'N').row(&[]).0;
    let transactional = || Wire::of(b'M').u8(1).u64(1).text("").counted(b"").0;
    let immediate = || Wire::of(b'M').u8(0).u64(1).text("").counted(b"").0;
    let start = || Wire::of(b'S').u32(1).u8(1).0;
    let prepare = || Wire::of(b'P').u8(0).u64(1).u64(2).u64(3).u32(4).text("").0;
    let streams: [&[Vec<u8>]; 10] = [
        &[insert()],
        &[commit()],
        &[transactional()],
        &[begin(), begin()],
        &[begin(), commit(), insert()],
        &[begin(), start()],
        &[begin(), prepare()],
        &[start(), begin()],
        &[start(), vec![b'E'], vec![b'E']],
        &[start(), start()],
    ];
    for stream in streams {
        let mut decoder = Decoder::new(ProtocolVersion::V3, Streaming::On);
        let (last, before) = stream.split_last().unwrap();
        for message in before {
            decoder.decode(message).unwrap();
        }
        let kind = char::from(last[0]);
        assert!(
            matches!(decoder.decode(last), Err(DecodeError::OutOfPlace { kind: k, .. }) if k == kind)
        );
    }
    let mut decoder = Decoder::new(ProtocolVersion::V1, Streaming::Off);
    for message in [
        immediate(),
        begin(),
        immediate(),
        transactional(),
        insert(),
        commit(),
    ] {
        decoder.decode(&message).unwrap();
    }
    // Not of the version, or not asked for.
    assert_eq!(decoder.decode(&start()), Err(DecodeError::UnknownType('S')));
    let mut decoder = Decoder::new(ProtocolVersion::V4, Streaming::Off);
    assert_eq!(decoder.decode(&start()), Err(DecodeError::UnknownType('S')));
    assert_eq!(decoder.decode(b"!"), Err(DecodeError::UnknownType('!')));
}

#[test]
fn an_error_says_where() {
    let mut decoder = decoder_in(Scope::Whole);
    let error = decoder
        .decode(b"I\0\0\0\x01N\0\x02t\0\0\0\x05abc")
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "a column's value was expected at byte 13, and 3 bytes are left there"
    );
    let cases: [(&[u8], &str); 6] = [
        (
            b"I\0\0\0\x01K",
            "a new row (N) was expected at byte 5, and 75 is there",
        ),
        (
            b"I\0\0\0\x01N\0\x01t\xff\xff\xff\xff",
            "a length of 0 or more was expected at byte 9, and 4294967295 is there",
        ),
        (
            b"R\0\0\0\x01pub",
            "a schema's name was expected at byte 5, and no end of a text follows",
        ),
        (
            b"Y\0\0\0\x01s\0\xff\0",
            "a type's name was expected at byte 7, and it is not UTF-8",
        ),
        (
            b"T\xff\xff\xff\xff\0\0",
            "the OIDs of relations was expected at byte 6, and 1 bytes are left there",
        ),
        (b"C\x01", "no flag was expected at byte 1, and 1 is there"),
    ];
    for (bytes, text) in cases {
        assert_eq!(
            decoder_in(Scope::Whole)
                .decode(bytes)
                .unwrap_err()
                .to_string(),
            text
        );
    }
}

#[test]
fn copy_both() {
    let wire = Wire::of(b'w').u64(1).u64(2).u64(3).u8(b'B');
    assert_eq!(
        CopyBoth::decode(&wire.0),
        Ok(CopyBoth::Data {
            start: Lsn(1),
            end: Lsn(2),
            clock: Timestamp(3),
            payload: b"B"
        })
    );
    let wire = Wire::of(b'k').u64(1).u64(2).u8(1);
    assert_eq!(
        CopyBoth::decode(&wire.0),
        Ok(CopyBoth::Keepalive {
            end: Lsn(1),
            clock: Timestamp(2),
            answering: Answering::AtOnce
        })
    );
    for length in 0..wire.0.len() {
        assert!(CopyBoth::decode(&wire.0[..length]).is_err());
    }
    assert!(CopyBoth::decode(&wire.u8(0).0).is_err());
    assert!(CopyBoth::decode(&Wire::of(b'k').u64(1).u64(2).u8(2).0).is_err());
    assert!(CopyBoth::decode(b"x").is_err());

    let mut out = Vec::new();
    StandbyStatus {
        written: Lsn(3),
        flushed: Lsn(2),
        applied: Lsn(1),
        clock: Timestamp(9),
        answering: Answering::AtOnce,
    }
    .encode(&mut out);
    let body = Wire::of(b'r').u64(3).u64(2).u64(1).u64(9).u8(1).0;
    assert_eq!(out, [&b"d\0\0\0\x26"[..], &body].concat());
}

#[test]
fn clocks() {
    let since = Duration::from_micros(1_580_608_922_500_000);
    assert_eq!(Timestamp::from_unix(since), Timestamp(633_924_122_500_000));
    assert_eq!(Timestamp(633_924_122_500_000).to_unix(), Some(since));
    assert_eq!(Timestamp::from_unix(Duration::ZERO), Timestamp(0));
    assert_eq!(Timestamp(i64::MIN).to_unix(), None);
    assert!(Timestamp(i64::MAX).to_unix().is_some());
}
