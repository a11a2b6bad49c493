//! Hash functions that a server does not bring with it, as functions in PL/pgSQL for the schema `trunkline`.
//!
//! [`super::condition`] calls them: XXH3 of one key column by its type, and the fold of the hashes of several columns. They compute what
//! [`crate::sharding::hash`] does, some microseconds a row. SQL has no unsigned numbers and stops where a sum or product does not fit: what is above
//! 64 bits is taken off by hand.
//!
//! Source: `XXH3_64bits` in `xxhash.h` (seed 0, the default secret).

/// Makes them, or makes them anew; to be run with `search_path` set to `pg_catalog`. Whoever runs a statement with such a condition may call them: they
/// know nothing but what they are given.
pub const FUNCTIONS: &str = r"
-- a * b without what is above 64 bits.
CREATE OR REPLACE FUNCTION trunkline.hash_times(a int8, b int8) RETURNS int8 LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $f$
DECLARE
  product CONSTANT numeric := (a::numeric * b) % 18446744073709551616;
BEGIN
  RETURN CASE WHEN product >= 9223372036854775808 THEN product - 18446744073709551616
    WHEN product < -9223372036854775808 THEN product + 18446744073709551616 ELSE product END;
END $f$;
-- a + b without what is above 64 bits.
CREATE OR REPLACE FUNCTION trunkline.hash_plus(a int8, b int8) RETURNS int8 LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $f$
DECLARE
  low CONSTANT int8 := (a & 4294967295) + (b & 4294967295);
BEGIN
  RETURN (((a >> 32) + (b >> 32) + (low >> 32)) << 32) | (low & 4294967295);
END $f$;
-- Both halves of the product of 128 bits, one upon the other.
CREATE OR REPLACE FUNCTION trunkline.hash_fold(a int8, b int8) RETURNS int8 LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $f$
DECLARE
  product CONSTANT numeric := (CASE WHEN a < 0 THEN a + 18446744073709551616 ELSE a END) * (CASE WHEN b < 0 THEN b + 18446744073709551616 ELSE b END);
  high CONSTANT numeric := div(product, 18446744073709551616);
  low CONSTANT numeric := product - high * 18446744073709551616;
BEGIN
  RETURN (CASE WHEN high >= 9223372036854775808 THEN high - 18446744073709551616 ELSE high END)::int8
    # (CASE WHEN low >= 9223372036854775808 THEN low - 18446744073709551616 ELSE low END)::int8;
END $f$;
-- Eight bytes, the lowest first.
CREATE OR REPLACE FUNCTION trunkline.hash_word(bytes bytea, place int4) RETURNS int8 LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $f$
BEGIN
  RETURN get_byte(bytes, place)::int8 | (get_byte(bytes, place + 1)::int8 << 8) | (get_byte(bytes, place + 2)::int8 << 16) | (get_byte(bytes, place + 3)::int8 << 24)
    | (get_byte(bytes, place + 4)::int8 << 32) | (get_byte(bytes, place + 5)::int8 << 40) | (get_byte(bytes, place + 6)::int8 << 48) | (get_byte(bytes, place + 7)::int8 << 56);
END $f$;
CREATE OR REPLACE FUNCTION trunkline.xxh3_avalanche(hash int8) RETURNS int8 LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $f$
DECLARE
  mixed CONSTANT int8 := trunkline.hash_times(hash # ((hash >> 37) & 134217727), x'165667919E3779F9'::int8);
BEGIN
  RETURN mixed # ((mixed >> 32) & 4294967295);
END $f$;
-- Of four to eight bytes: the last four of them, and above these the first four.
CREATE OR REPLACE FUNCTION trunkline.xxh3_of_8(halves int8, size int4) RETURNS int8 LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $f$
DECLARE
  prime CONSTANT int8 := x'9FB21C651E98DF25'::int8;
  hash int8 := halves # x'C73AB174C5ECD5A2'::int8;
BEGIN
  hash := trunkline.hash_times(hash # ((hash << 49) | ((hash >> 15) & 562949953421311)) # ((hash << 24) | ((hash >> 40) & 16777215)), prime);
  hash := trunkline.hash_times(hash # (((hash >> 35) & 536870911) + size), prime);
  RETURN hash # ((hash >> 28) & 68719476735);
END $f$;
-- Of nine to sixteen bytes: the first eight and the last eight.
CREATE OR REPLACE FUNCTION trunkline.xxh3_of_16(first int8, last int8, size int4) RETURNS int8 LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $f$
DECLARE
  low CONSTANT int8 := first # x'6782737BEA4239B9'::int8;
  high CONSTANT int8 := last # x'AF56BC3B0996523A'::int8;
  turned CONSTANT int8 := ((low & 255) << 56) | ((low & 65280) << 40) | ((low & 16711680) << 24) | ((low & 4278190080) << 8)
    | ((low >> 8) & 4278190080) | ((low >> 24) & 16711680) | ((low >> 40) & 65280) | ((low >> 56) & 255);
BEGIN
  RETURN trunkline.xxh3_avalanche(trunkline.hash_plus(trunkline.hash_plus(size, turned), trunkline.hash_plus(high, trunkline.hash_fold(low, high))));
END $f$;
CREATE OR REPLACE FUNCTION trunkline.xxh3_mix(bytes bytea, place int4, secret bytea, secret_place int4) RETURNS int8 LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $f$
BEGIN
  RETURN trunkline.hash_fold(trunkline.hash_word(bytes, place) # trunkline.hash_word(secret, secret_place),
    trunkline.hash_word(bytes, place + 8) # trunkline.hash_word(secret, secret_place + 8));
END $f$;
CREATE OR REPLACE FUNCTION trunkline.xxh3(bytes bytea) RETURNS int8 LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog AS $f$
DECLARE
  secret CONSTANT bytea := decode(
    'b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671fcb79e64eccc0e578825ad07dccff7221b8084674f743248ee03590e6813a264c'
    '3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364'
    'eac5ac8334d3ebc3c581a0fffa1363eb170ddd51b7f0da49d316552629d4689e2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e', 'hex');
  prime CONSTANT int8 := x'9E3779B185EBCA87'::int8;
  size CONSTANT int4 := length(bytes);
  hash int8;
  lanes int8[];
  word int8;
  keyed int8;
  place int4 := 0;
  stripe int4 := 0;
BEGIN
  IF size = 0 THEN
    RETURN x'2D06800538D394C2'::int8;
  ELSIF size < 4 THEN
    hash := ((get_byte(bytes, 0)::int8 << 16) | (get_byte(bytes, size / 2)::int8 << 24) | get_byte(bytes, size - 1) | (size << 8)) # x'87275A9B'::int8;
    hash := trunkline.hash_times(hash # ((hash >> 33) & 2147483647), x'C2B2AE3D27D4EB4F'::int8);
    hash := trunkline.hash_times(hash # ((hash >> 29) & 34359738367), x'165667B19E3779F9'::int8);
    RETURN hash # ((hash >> 32) & 4294967295);
  ELSIF size <= 8 THEN
    hash := (trunkline.hash_word(bytes || decode('00000000', 'hex'), 0) << 32)
      | ((trunkline.hash_word(decode('00000000', 'hex') || bytes, size - 4) >> 32) & 4294967295);
    RETURN trunkline.xxh3_of_8(hash, size);
  ELSIF size <= 16 THEN
    RETURN trunkline.xxh3_of_16(trunkline.hash_word(bytes, 0), trunkline.hash_word(bytes, size - 8), size);
  ELSIF size <= 128 THEN
    hash := trunkline.hash_times(size, prime);
    WHILE place * 32 < size LOOP
      hash := trunkline.hash_plus(hash, trunkline.xxh3_mix(bytes, place * 16, secret, place * 32));
      hash := trunkline.hash_plus(hash, trunkline.xxh3_mix(bytes, size - (place + 1) * 16, secret, place * 32 + 16));
      place := place + 1;
    END LOOP;
    RETURN trunkline.xxh3_avalanche(hash);
  ELSIF size <= 240 THEN
    hash := trunkline.hash_times(size, prime);
    FOR n IN 0 .. size / 16 - 1 LOOP
      hash := trunkline.hash_plus(hash, trunkline.xxh3_mix(bytes, n * 16, secret, CASE WHEN n < 8 THEN n * 16 ELSE (n - 8) * 16 + 3 END));
      IF n = 7 THEN
        hash := trunkline.xxh3_avalanche(hash);
      END IF;
    END LOOP;
    RETURN trunkline.xxh3_avalanche(trunkline.hash_plus(hash, trunkline.xxh3_mix(bytes, size - 16, secret, 119)));
  END IF;
  lanes := ARRAY[x'C2B2AE3D'::int8, prime, x'C2B2AE3D27D4EB4F'::int8, x'165667B19E3779F9'::int8,
    x'85EBCA77C2B2AE63'::int8, x'85EBCA77'::int8, x'27D4EB2F165667C5'::int8, x'9E3779B1'::int8];
  WHILE stripe * 64 < size LOOP
    -- The last stripe is the last 64 bytes.
    place := CASE WHEN (stripe + 1) * 64 < size THEN stripe * 64 ELSE size - 64 END;
    FOR n IN 0 .. 7 LOOP
      word := trunkline.hash_word(bytes, place + n * 8);
      keyed := word # trunkline.hash_word(secret, n * 8 + CASE WHEN (stripe + 1) * 64 < size THEN stripe % 16 * 8 ELSE 121 END);
      lanes[(n # 1) + 1] := trunkline.hash_plus(lanes[(n # 1) + 1], word);
      lanes[n + 1] := trunkline.hash_plus(lanes[n + 1], trunkline.hash_times(keyed & 4294967295, (keyed >> 32) & 4294967295));
    END LOOP;
    stripe := stripe + 1;
    IF stripe % 16 = 0 AND stripe * 64 < size THEN
      FOR n IN 0 .. 7 LOOP
        word := lanes[n + 1];
        lanes[n + 1] := trunkline.hash_times(word # ((word >> 47) & 131071) # trunkline.hash_word(secret, 128 + n * 8), x'9E3779B1'::int8);
      END LOOP;
    END IF;
  END LOOP;
  hash := trunkline.hash_times(size, prime);
  FOR n IN 0 .. 3 LOOP
    hash := trunkline.hash_plus(hash, trunkline.hash_fold(lanes[n * 2 + 1] # trunkline.hash_word(secret, 11 + n * 16), lanes[n * 2 + 2] # trunkline.hash_word(secret, 19 + n * 16)));
  END LOOP;
  RETURN trunkline.xxh3_avalanche(hash);
END $f$;
-- Of a number of four or eight bytes as it is sent, the highest first: it is hashed with the lowest first.
CREATE OR REPLACE FUNCTION trunkline.xxh3_of_number(sent bytea) RETURNS int8 LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog AS $f$
DECLARE
  high CONSTANT int8 := (get_byte(sent, 0)::int8 << 24) | (get_byte(sent, 1)::int8 << 16) | (get_byte(sent, 2)::int8 << 8) | get_byte(sent, 3);
BEGIN
  IF length(sent) = 4 THEN
    RETURN trunkline.xxh3_of_8((high << 32) | high, 4);
  END IF;
  RETURN trunkline.xxh3_of_8(((get_byte(sent, 4)::int8 << 56) | (get_byte(sent, 5)::int8 << 48) | (get_byte(sent, 6)::int8 << 40) | (get_byte(sent, 7)::int8 << 32)) | high, 8);
END $f$;
-- Of a whole number as 16 bytes, the lowest first; of others there is none.
CREATE OR REPLACE FUNCTION trunkline.xxh3_of_numeric(whole numeric) RETURNS int8 LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog AS $f$
DECLARE
  bits numeric;
  high numeric;
  low numeric;
BEGIN
  IF whole NOT BETWEEN -170141183460469231731687303715884105728 AND 170141183460469231731687303715884105727 OR whole <> trunc(whole) THEN
    RETURN NULL;
  END IF;
  bits := CASE WHEN whole < 0 THEN whole + 340282366920938463463374607431768211456 ELSE whole END;
  high := div(bits, 18446744073709551616);
  low := bits - high * 18446744073709551616;
  RETURN trunkline.xxh3_of_16(CASE WHEN low >= 9223372036854775808 THEN low - 18446744073709551616 ELSE low END::int8,
    CASE WHEN high >= 9223372036854775808 THEN high - 18446744073709551616 ELSE high END::int8, 16);
END $f$;
-- As Postgres folds the hashes of the columns of a partition's key.
CREATE OR REPLACE FUNCTION trunkline.hash_combine(a int8, b int8) RETURNS int8 LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog AS $f$
BEGIN
  RETURN a # trunkline.hash_plus(trunkline.hash_plus(b, x'49A0F4DD15E5A8E3'::int8), trunkline.hash_plus(a << 54, (a >> 7) & 144115188075855871));
END $f$;
GRANT USAGE ON SCHEMA trunkline TO PUBLIC;
";
