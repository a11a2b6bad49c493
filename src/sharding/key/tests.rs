use super::*;
use proptest::prelude::*;

fn read(key_type: KeyType, text: &str) -> Option<KeyValue> {
    key_type.parse_text(text).ok()
}

fn message(key_type: KeyType, text: &str) -> String {
    key_type.parse_text(text).unwrap_err().to_string()
}

#[test]
fn names_and_oids_lead_back_to_their_type() {
    for key_type in KeyType::ALL {
        assert_eq!(KeyType::parse_name(key_type.name()), Some(key_type));
        assert_eq!(KeyType::from_oid(key_type.oid()), Some(key_type));
    }
    assert_eq!(KeyType::parse_name("INT8"), Some(KeyType::BigInt));
    assert_eq!(KeyType::parse_name("float8"), None);
    // "char", the internal one-byte type.
    assert_eq!(KeyType::from_oid(18), None);
}

#[test]
fn integers_are_whole_and_in_range() {
    assert_eq!(read(KeyType::Integer, " 42\n"), Some(KeyValue::Int(42)));
    assert_eq!(read(KeyType::Integer, "42.0"), Some(KeyValue::Int(42)));
    assert_eq!(
        read(KeyType::BigInt, "-9223372036854775808"),
        Some(KeyValue::Int(i64::MIN))
    );
    assert_eq!(read(KeyType::SmallInt, "4.2e1"), Some(KeyValue::Int(42)));
    for text in [
        "", " ", "-", "+", ".", "e5", "1e", "1e+", "0x1F", "1_000", "4 2", "- 4", "--4", "1.2.3",
        "NaN", "٤٢", "4\u{a0}",
    ] {
        assert_eq!(read(KeyType::BigInt, text), None, "{text:?}");
        assert_eq!(read(KeyType::Numeric, text), None, "{text:?}");
    }
    assert_eq!(
        message(KeyType::SmallInt, "32768"),
        "\"32768\" is out of range for type smallint: allowed are -32768 to 32767"
    );
    assert_eq!(
        message(KeyType::Integer, "42.5"),
        "\"42.5\" has a fraction: a shard key of type integer must be a whole number"
    );
    assert!(matches!(
        KeyType::BigInt.parse_text("9223372036854775808"),
        Err(KeyError::OutOfRange { .. })
    ));
}

#[test]
fn numeric_is_whole_in_any_spelling() {
    for text in [
        "1200",
        "1200.000",
        "1.2e3",
        "+12E+2",
        "120000e-2",
        "0001200.",
    ] {
        assert_eq!(
            read(KeyType::Numeric, text),
            Some(KeyValue::Numeric(1200)),
            "{text}"
        );
    }
    assert_eq!(
        read(KeyType::Numeric, "0e999999999999999999999"),
        Some(KeyValue::Numeric(0))
    );
    assert_eq!(
        read(KeyType::Numeric, "170141183460469231731687303715884105727"),
        Some(KeyValue::Numeric(i128::MAX))
    );
    for text in [
        "170141183460469231731687303715884105728",
        "1e39",
        "1e999999999999999999999",
    ] {
        assert!(
            matches!(
                KeyType::Numeric.parse_text(text),
                Err(KeyError::OutOfRange { .. })
            ),
            "{text}"
        );
    }
    for text in ["0.5", "1e-1", "1e-999999999999999999999", ".0001e3"] {
        assert!(
            matches!(
                KeyType::Numeric.parse_text(text),
                Err(KeyError::Fraction { .. })
            ),
            "{text}"
        );
    }
}

#[test]
fn text_types_differ_in_blanks() {
    assert_eq!(
        read(KeyType::Text, " a "),
        Some(KeyValue::Text(" a ".into()))
    );
    assert_eq!(
        read(KeyType::Char, " a  "),
        Some(KeyValue::Text(" a".into()))
    );
    assert_eq!(
        read(KeyType::Char, "a\t"),
        Some(KeyValue::Text("a\t".into()))
    );
    assert!(matches!(
        KeyType::VarChar.parse_text("a "),
        Err(KeyError::TrailingBlank { .. })
    ));
    assert_eq!(
        KeyType::Text.parse_text("a\0"),
        Err(KeyError::ZeroByte {
            key_type: KeyType::Text
        })
    );
    assert_eq!(
        KeyType::Text.parse_binary(b"a\0"),
        Err(KeyError::ZeroByte {
            key_type: KeyType::Text
        })
    );
    assert_eq!(
        KeyType::Text.parse_binary(b"\xff"),
        Err(KeyError::NotUtf8 {
            key_type: KeyType::Text
        })
    );
}

#[test]
fn uuid_has_all_spellings_of_postgres() {
    let expected = read(KeyType::Uuid, "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11");
    assert!(expected.is_some());
    for text in [
        "A0EEBC999C0B4EF8BB6D6BB9BD380A11",
        "{a0eebc99-9c0b4ef8-bb6d6bb9-bd380a11}",
        "a0ee-bc99-9c0b-4ef8-bb6d-6bb9-bd38-0a11",
    ] {
        assert_eq!(read(KeyType::Uuid, text), expected, "{text}");
    }
    let wrong = [
        "",
        "a0eebc99",
        " a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
        "{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
        "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}",
        "a0-eebc99-9c0b-4ef8-bb6d-6bb9bd380a1",
        "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11-",
        "a0eebc99--9c0b-4ef8-bb6d-6bb9bd380a11",
        "g0eebc999c0b4ef8bb6d6bb9bd380a11",
        "+0eebc999c0b4ef8bb6d6bb9bd380a11",
    ];
    for text in wrong {
        assert_eq!(read(KeyType::Uuid, text), None, "{text}");
    }
}

#[test]
fn dates_are_iso_or_infinite() {
    assert_eq!(read(KeyType::Date, "2000-01-01"), Some(KeyValue::Date(0)));
    assert_eq!(
        read(KeyType::Date, "2024-02-29"),
        Some(KeyValue::Date(8825))
    );
    assert_eq!(
        read(KeyType::Date, "INFINITY"),
        Some(KeyValue::Date(i32::MAX))
    );
    assert_eq!(
        read(KeyType::Date, "5874897-12-31"),
        Some(KeyValue::Date(2_145_031_948))
    );
    assert!(matches!(
        KeyType::Date.parse_text("5874898-01-01"),
        Err(KeyError::OutOfRange { .. })
    ));
    for text in [
        "2023-02-29",
        "2024-13-01",
        "2024-00-01",
        "0000-01-01",
        "0044-03-15 BC",
        "01/02/2024",
        "20240102",
        "24-01-02",
        "now",
        "2024-01-05 10:00",
        "2024-01-05x",
    ] {
        assert_eq!(read(KeyType::Date, text), None, "{text}");
    }
}

#[test]
fn timestamps_need_no_setting_to_be_read() {
    let noon = Some(KeyValue::Timestamp(12 * 3_600_000_000));
    assert_eq!(read(KeyType::Timestamp, "2000-01-01T12:00"), noon);
    assert_eq!(read(KeyType::Timestamp, "2000-01-01 12:00:00+09"), noon);
    for text in [
        "2000-01-01 12:00:00Z",
        "2000-01-01 14:30:00+02:30",
        "2000-01-01 06:00 -06",
        "2000-01-01 12:00:00 utc",
        "2000-01-01 23:00:00+1100",
    ] {
        assert_eq!(read(KeyType::TimestampTz, text), noon, "{text}");
    }
    assert!(message(KeyType::TimestampTz, "2000-01-01 12:00").contains("names no time zone"));
    for text in [
        "2000-01-01 24:00:00Z",
        "2000-01-01 12:60Z",
        "2000-01-01 12Z",
        "2000-01-01 12:00 CET",
        "2000-01-01 12:00 Europe/Berlin",
        "2000-01-01-02",
        "2000-01-01 12:00:00.Z",
        "2000-01-01 12:00:00+16",
        "2000-01-01 12:00 PM Z",
        "2000-01-01 12:00Z x",
    ] {
        assert_eq!(read(KeyType::TimestampTz, text), None, "{text}");
    }
    assert!(matches!(
        KeyType::Timestamp.parse_text("294277-01-01"),
        Err(KeyError::OutOfRange { .. })
    ));
    assert!(matches!(
        KeyType::TimestampTz.parse_text("294276-12-31 23:59:59-01"),
        Err(KeyError::OutOfRange { .. })
    ));
}

#[test]
fn bytea_has_two_forms() {
    let bytes = |bytes: &[u8]| Some(KeyValue::Bytea(bytes.into()));
    assert_eq!(read(KeyType::Bytea, "\\xDE ad"), bytes(&[0xde, 0xad]));
    assert_eq!(
        read(KeyType::Bytea, "a\\\\b\\000\\377"),
        bytes(b"a\\b\x00\xff")
    );
    for text in [
        "\\x1", "\\xd ead", "\\xgg", "\\", "\\4", "\\400", "\\18", "a\\y", "\0",
    ] {
        assert_eq!(read(KeyType::Bytea, text), None, "{text}");
    }
}

/// The header of a numeric in binary form and its digits of base 10000.
fn numeric(weight: i16, sign: u16, scale: u16, digits: &[u16]) -> Vec<u8> {
    let count = u16::try_from(digits.len()).unwrap();
    [count, weight.cast_unsigned(), sign, scale]
        .iter()
        .chain(digits)
        .flat_map(|word| word.to_be_bytes())
        .collect()
}

#[test]
fn binary_numeric_is_whole() {
    let read = |raw: &[u8]| KeyType::Numeric.parse_binary(raw);
    assert_eq!(read(&numeric(0, 0, 0, &[])), Ok(KeyValue::Numeric(0)));
    assert_eq!(
        read(&numeric(1, 0x4000, 2, &[12, 3456, 0])),
        Ok(KeyValue::Numeric(-123_456))
    );
    assert_eq!(
        read(&numeric(2, 0, 0, &[1])),
        Ok(KeyValue::Numeric(100_000_000))
    );
    assert!(matches!(
        read(&numeric(0, 0, 1, &[1, 5000])),
        Err(KeyError::Fraction { .. })
    ));
    assert!(matches!(
        read(&numeric(-1, 0, 1, &[5000])),
        Err(KeyError::Fraction { .. })
    ));
    assert!(matches!(
        read(&numeric(10, 0, 0, &[1])),
        Err(KeyError::OutOfRange { .. })
    ));
    assert!(matches!(
        read(&numeric(i16::MAX, 0, 0, &[1])),
        Err(KeyError::OutOfRange { .. })
    ));
    assert!(matches!(
        read(&numeric(0, 0xC000, 0, &[])),
        Err(KeyError::Malformed { .. })
    ));
    assert!(matches!(
        read(&numeric(0, 0, 0, &[10_000])),
        Err(KeyError::Binary { .. })
    ));
    for length in 0..10 {
        assert!(read(&numeric(0, 0, 0, &[1, 2])[..length]).is_err());
    }
}

#[test]
fn binary_values_have_their_length_and_range() {
    for key_type in [
        KeyType::SmallInt,
        KeyType::Integer,
        KeyType::BigInt,
        KeyType::Uuid,
        KeyType::Date,
        KeyType::Timestamp,
    ] {
        assert!(
            matches!(key_type.parse_binary(&[0; 3]), Err(KeyError::Binary { .. })),
            "{key_type:?}"
        );
    }
    assert_eq!(
        KeyType::SmallInt.parse_binary(&[0xff, 0xfe]),
        Ok(KeyValue::Int(-2))
    );
    assert!(matches!(
        KeyType::Date.parse_binary(&(i32::MAX - 1).to_be_bytes()),
        Err(KeyError::OutOfRange { .. })
    ));
    assert!(matches!(
        KeyType::TimestampTz.parse_binary(&(i64::MIN + 1).to_be_bytes()),
        Err(KeyError::OutOfRange { .. })
    ));
    assert_eq!(
        KeyType::TimestampTz.parse_binary(&i64::MIN.to_be_bytes()),
        Ok(KeyValue::Timestamp(i64::MIN))
    );
}

#[test]
fn only_exact_comparisons_convert() {
    use KeyType::*;
    let int = KeyValue::Int(40_000);
    assert_eq!(BigInt.convert(int.clone(), Integer), Ok(int.clone()));
    assert!(matches!(
        SmallInt.convert(int.clone(), Integer),
        Err(KeyError::OutOfRange { .. })
    ));
    assert_eq!(
        Numeric.convert(int.clone(), Integer),
        Ok(KeyValue::Numeric(40_000))
    );
    assert_eq!(
        Integer.convert(KeyValue::Numeric(40_000), Numeric),
        Ok(int.clone())
    );
    assert!(matches!(
        BigInt.convert(KeyValue::Numeric(i128::MAX), Numeric),
        Err(KeyError::OutOfRange { .. })
    ));
    assert_eq!(
        Char.convert(KeyValue::Text("a ".into()), Text),
        Ok(KeyValue::Text("a".into()))
    );
    assert!(matches!(
        VarChar.convert(KeyValue::Text("a ".into()), Text),
        Err(KeyError::TrailingBlank { .. })
    ));
    assert_eq!(
        Timestamp.convert(KeyValue::Date(1), Date),
        Ok(KeyValue::Timestamp(86_400_000_000))
    );
    assert_eq!(
        Timestamp.convert(KeyValue::Date(i32::MIN), Date),
        Ok(KeyValue::Timestamp(i64::MIN))
    );
    assert!(matches!(
        Timestamp.convert(KeyValue::Date(2_000_000_000), Date),
        Err(KeyError::OutOfRange { .. })
    ));
    for (to, value, from) in [
        (TimestampTz, KeyValue::Date(1), Date),
        (TimestampTz, KeyValue::Timestamp(1), Timestamp),
        (Timestamp, KeyValue::Timestamp(1), TimestampTz),
        (Date, KeyValue::Timestamp(0), Timestamp),
        (Text, int.clone(), Integer),
        (BigInt, KeyValue::Text("1".into()), Text),
        (Uuid, KeyValue::Text("1".into()), Text),
        (Bytea, KeyValue::Text("1".into()), Text),
        (BigInt, int, Text),
    ] {
        assert_eq!(
            to.convert(value, from),
            Err(KeyError::NotComparable { from, to })
        );
    }
}

#[test]
fn values_are_shown_as_literals() {
    assert_eq!(KeyValue::Text("it's".into()).to_string(), "'it''s'");
    assert_eq!(
        KeyValue::Bytea([0xde, 0xad].into()).to_string(),
        "'\\xdead'"
    );
    assert_eq!(KeyValue::Date(-730_120).to_string(), "'0001-12-31 BC'");
    assert_eq!(
        KeyValue::Timestamp(-1).to_string(),
        "'1999-12-31 23:59:59.999999'"
    );
    assert_eq!(
        KeyValue::Timestamp(500_000).to_string(),
        "'2000-01-01 00:00:00.5'"
    );
    assert_eq!(KeyValue::Timestamp(i64::MAX).to_string(), "'infinity'");
}

/// A value's text without the quotes of its literal.
fn shown(value: &KeyValue) -> String {
    let literal = value.to_string();
    match literal
        .strip_prefix('\'')
        .and_then(|rest| rest.strip_suffix('\''))
    {
        Some(inside) => inside.replace("''", "'"),
        None => literal,
    }
}

fn binary_numeric(value: i128) -> Vec<u8> {
    let mut digits = Vec::new();
    let mut rest = value.unsigned_abs();
    while rest != 0 {
        digits.insert(0, u16::try_from(rest % 10_000).unwrap());
        rest /= 10_000;
    }
    let weight = i16::try_from(digits.len()).unwrap() - 1;
    while digits.last() == Some(&0) {
        digits.pop();
    }
    numeric(weight, if value < 0 { 0x4000 } else { 0 }, 0, &digits)
}

proptest! {
    #[test]
    fn text_and_binary_agree_on_integers(value: i64) {
        let expected = Ok(KeyValue::Int(value));
        prop_assert_eq!(&KeyType::BigInt.parse_text(&value.to_string()), &expected);
        prop_assert_eq!(&KeyType::BigInt.parse_binary(&value.to_be_bytes()), &expected);
    }

    #[test]
    fn text_and_binary_agree_on_numeric(value in any::<i128>(), shift in 0_u32..127) {
        let value = value >> shift;
        prop_assume!(value != i128::MIN);
        let expected = Ok(KeyValue::Numeric(value));
        prop_assert_eq!(&KeyType::Numeric.parse_text(&value.to_string()), &expected);
        prop_assert_eq!(&KeyType::Numeric.parse_text(&format!("{value}000e-3")), &expected);
        prop_assert_eq!(&KeyType::Numeric.parse_binary(&binary_numeric(value)), &expected);
    }

    #[test]
    fn text_and_binary_agree_on_dates(days in -730_119_i32..=2_145_031_948) {
        let value = KeyType::Date.parse_binary(&days.to_be_bytes()).unwrap();
        prop_assert_eq!(KeyType::Date.parse_text(&shown(&value)), Ok(value));
    }

    #[test]
    fn text_and_binary_agree_on_timestamps(micros in -63_082_281_600_000_000_i64..9_223_371_331_200_000_000) {
        for (key_type, zone) in [(KeyType::Timestamp, ""), (KeyType::TimestampTz, "+00"), (KeyType::TimestampTz, "Z")] {
            let value = key_type.parse_binary(&micros.to_be_bytes()).unwrap();
            prop_assert_eq!(key_type.parse_text(&format!("{}{zone}", shown(&value))), Ok(value));
        }
    }

    #[test]
    fn text_and_binary_agree_on_bytes(bytes: Vec<u8>, uuid: [u8; 16]) {
        let value = KeyType::Bytea.parse_binary(&bytes).unwrap();
        prop_assert_eq!(KeyType::Bytea.parse_text(&shown(&value)), Ok(value));
        let value = KeyType::Uuid.parse_binary(&uuid).unwrap();
        prop_assert_eq!(KeyType::Uuid.parse_text(&shown(&value)), Ok(value));
    }

    #[test]
    fn text_and_binary_agree_on_text(text: String) {
        for key_type in [KeyType::Text, KeyType::VarChar, KeyType::Char] {
            prop_assert_eq!(key_type.parse_text(&text), key_type.parse_binary(text.as_bytes()));
        }
    }

    #[test]
    fn no_input_panics(text in "[-+0-9.:eEtTzZ {}x\\\\infty]{0,30}", raw: Vec<u8>) {
        for key_type in KeyType::ALL {
            let _ = key_type.parse_text(&text);
            let _ = key_type.parse_binary(&raw);
        }
    }
}
