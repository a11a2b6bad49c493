//! `numeric` in its binary format: exact addition, averages, text, order.
//!
//! The format is that of `numeric_send` (`src/backend/utils/adt/numeric.c`): number of digits, weight, sign, display scale, then digits to
//! the base 10000. The first digit counts 10000 to the power of the weight.

use std::num::NonZeroU64;

use super::MergeError;

const BASE: i32 = 10_000;
/// Decimal places of a digit.
const DIGIT_PLACES: u16 = 4;
const NEGATIVE: u16 = 0x4000;
const NAN: u16 = 0xc000;
const POSITIVE_INFINITY: u16 = 0xd000;
const NEGATIVE_INFINITY: u16 = 0xf000;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Numeric {
    NegativeInfinity,
    Finite(Finite),
    PositiveInfinity,
    NotANumber,
}

/// Without zeros at either end; zero has no digits and weight 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finite {
    negative: bool,
    weight: i32,
    /// Decimal places that are shown.
    scale: u16,
    digits: Vec<u16>,
}

impl Numeric {
    pub fn read(value: &[u8]) -> Result<Numeric, MergeError> {
        const MALFORMED: MergeError = MergeError::Malformed("a numeric that is none");
        let word = |place: usize| {
            let bytes = value.get(2 * place..2 * place + 2);
            bytes
                .map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
                .ok_or(MALFORMED)
        };
        let count = usize::from(word(0)?);
        let sign = word(2)?;
        if value.len() != 8 + 2 * count {
            return Err(MALFORMED);
        }
        match sign {
            NAN => return Ok(Numeric::NotANumber),
            POSITIVE_INFINITY => return Ok(Numeric::PositiveInfinity),
            NEGATIVE_INFINITY => return Ok(Numeric::NegativeInfinity),
            0 | NEGATIVE => {}
            _ => return Err(MALFORMED),
        }
        let digits = (4..4 + count)
            .map(word)
            .collect::<Result<Vec<u16>, MergeError>>()?;
        if digits.iter().any(|digit| i32::from(*digit) >= BASE) {
            return Err(MALFORMED);
        }
        Ok(Numeric::Finite(Finite::of(
            sign == NEGATIVE,
            i32::from(word(1)? as i16),
            word(3)?,
            &digits,
        )))
    }

    pub fn of_integer(value: i64) -> Numeric {
        let mut digits = Vec::with_capacity(5);
        let mut rest = value.unsigned_abs();
        while rest > 0 {
            digits.push((rest % BASE as u64) as u16);
            rest /= BASE as u64;
        }
        digits.reverse();
        let weight = digits.len() as i32 - 1;
        // At most five digits, so that no cast cuts.
        Numeric::Finite(Finite::of(value < 0, weight, 0, &digits))
    }

    /// As `numeric_add`: the larger scale; opposite infinities make NaN.
    pub fn add(&self, other: &Numeric) -> Result<Numeric, MergeError> {
        use Numeric::{Finite, NegativeInfinity, NotANumber, PositiveInfinity};
        match (self, other) {
            (NotANumber, _)
            | (_, NotANumber)
            | (PositiveInfinity, NegativeInfinity)
            | (NegativeInfinity, PositiveInfinity) => Ok(NotANumber),
            (PositiveInfinity, _) | (_, PositiveInfinity) => Ok(PositiveInfinity),
            (NegativeInfinity, _) | (_, NegativeInfinity) => Ok(NegativeInfinity),
            (Finite(one), Finite(other)) => one.add(other).map(Finite),
        }
    }

    /// As `numeric_div`, by the count of an average.
    pub fn divide(&self, count: NonZeroU64) -> Numeric {
        match self {
            Numeric::Finite(finite) => Numeric::Finite(finite.divide(count.get())),
            // Divided by what is greater than 0 they stay what they are.
            Numeric::NotANumber | Numeric::PositiveInfinity | Numeric::NegativeInfinity => {
                self.clone()
            }
        }
    }

    /// As `numeric_send`.
    pub fn append_binary(&self, out: &mut Vec<u8>) {
        let (count, weight, sign, scale, digits) = match self {
            Numeric::NotANumber => (0, 0, NAN, 0, &[][..]),
            Numeric::PositiveInfinity => (0, 0, POSITIVE_INFINITY, 0x20, &[][..]),
            Numeric::NegativeInfinity => (0, 0, NEGATIVE_INFINITY, 0x20, &[][..]),
            Numeric::Finite(finite) => {
                let sign = if finite.negative { NEGATIVE } else { 0 };
                let count = finite.digits.len() as u16;
                (
                    count,
                    finite.weight as u16,
                    sign,
                    finite.scale,
                    &finite.digits[..],
                )
            }
        };
        for word in [count, weight, sign, scale].iter().chain(digits) {
            out.extend(word.to_be_bytes());
        }
    }

    /// As `numeric_out`.
    pub fn append_text(&self, out: &mut Vec<u8>) {
        match self {
            Numeric::NotANumber => out.extend_from_slice(b"NaN"),
            Numeric::PositiveInfinity => out.extend_from_slice(b"Infinity"),
            Numeric::NegativeInfinity => out.extend_from_slice(b"-Infinity"),
            Numeric::Finite(finite) => finite.append_text(out),
        }
    }

    /// Bytes in the order of the values; equal values have equal bytes whatever their scales.
    pub fn append_key(&self, out: &mut Vec<u8>) {
        match self {
            Numeric::NegativeInfinity => out.push(0),
            Numeric::Finite(finite) if finite.digits.is_empty() => out.push(2),
            Numeric::Finite(finite) => {
                out.push(if finite.negative { 1 } else { 3 });
                let start = out.len();
                out.extend(((finite.weight + 0x8000) as u32).to_be_bytes());
                for digit in &finite.digits {
                    out.extend((digit + 1).to_be_bytes());
                }
                out.extend([0, 0]);
                if finite.negative {
                    for byte in &mut out[start..] {
                        *byte = !*byte;
                    }
                }
            }
            Numeric::PositiveInfinity => out.push(4),
            // Greater than all, as in floats.
            Numeric::NotANumber => out.push(5),
        }
    }
}

impl Finite {
    fn of(negative: bool, weight: i32, scale: u16, digits: &[u16]) -> Finite {
        let first = digits.iter().position(|digit| *digit != 0);
        let Some(first) = first else {
            return Finite {
                negative: false,
                weight: 0,
                scale,
                digits: Vec::new(),
            };
        };
        let last = digits
            .iter()
            .rposition(|digit| *digit != 0)
            .unwrap_or(first);
        Finite {
            negative,
            weight: weight - first as i32,
            scale,
            digits: digits[first..=last].to_vec(),
        }
    }

    fn add(&self, other: &Finite) -> Result<Finite, MergeError> {
        let scale = self.scale.max(other.scale);
        if self.digits.is_empty() || other.digits.is_empty() {
            let sum = if self.digits.is_empty() { other } else { self };
            return Ok(Finite {
                scale,
                ..sum.clone()
            });
        }
        let top = self.weight.max(other.weight) + 1;
        let bottom = self.lowest().min(other.lowest());
        let mut places = vec![0_i32; (top - bottom + 1) as usize];
        for number in [self, other] {
            let sign = if number.negative { -1 } else { 1 };
            let first = (top - number.weight) as usize;
            for (place, digit) in places[first..].iter_mut().zip(&number.digits) {
                *place += sign * i32::from(*digit);
            }
        }
        let negative = places
            .iter()
            .find(|place| **place != 0)
            .is_some_and(|place| *place < 0);
        let mut carry = 0;
        let mut digits = vec![0_u16; places.len()];
        for (place, digit) in places.iter().zip(&mut digits).rev() {
            let value = carry + if negative { -place } else { *place };
            *digit = value.rem_euclid(BASE) as u16;
            carry = value.div_euclid(BASE);
        }
        let sum = Finite::of(negative, top, scale, &digits);
        if sum.weight > i32::from(i16::MAX) {
            return Err(MergeError::NumericOverflow);
        }
        Ok(sum)
    }

    /// Rounded half away from zero.
    fn divide(&self, by: u64) -> Finite {
        let scale = self.scale_over(by);
        // The last digit that is computed holds the first decimal place that is cut off.
        let last = -i32::from(scale / DIGIT_PLACES) - 1;
        let mut rest = 0_u128;
        let mut digits: Vec<u16> = (last..=self.weight)
            .rev()
            .map(|power| {
                let value = rest * BASE as u128 + u128::from(self.digit(power));
                rest = value % u128::from(by);
                // Less than the base, because the rest before was less than the divisor.
                (value / u128::from(by)) as u16
            })
            .collect();
        let mut weight = self.weight;
        if let Some(digit) = digits.last_mut() {
            let unit = 10_u16.pow(u32::from(DIGIT_PLACES - scale % DIGIT_PLACES));
            let cut = *digit % unit;
            *digit -= cut;
            let mut carry = if 2 * cut >= unit { unit } else { 0 };
            for digit in digits.iter_mut().rev() {
                let value = *digit + carry;
                *digit = value % BASE as u16;
                carry = value / BASE as u16;
            }
            if carry > 0 {
                digits.insert(0, carry);
                weight += 1;
            }
        }
        Finite::of(self.negative, weight, scale, &digits)
    }

    /// The decimal places of a quotient (`select_div_scale`).
    fn scale_over(&self, by: u64) -> u16 {
        /// `NUMERIC_MIN_SIG_DIGITS`, `NUMERIC_MAX_DISPLAY_SCALE`.
        const SIGNIFICANT: i32 = 16;
        const MOST: i32 = 1000;
        let (mut first, mut weight) = (by, 0);
        while first >= BASE as u64 {
            first /= BASE as u64;
            weight += 1;
        }
        let own = self.digits.first().copied().unwrap_or(0);
        let mut quotient = self.weight - weight;
        if u64::from(own) <= first {
            quotient -= 1;
        }
        let places = SIGNIFICANT - quotient * i32::from(DIGIT_PLACES);
        let places = places.max(i32::from(self.scale)).clamp(0, MOST);
        // Not more than a thousand.
        places as u16
    }

    /// The power of the last digit.
    fn lowest(&self) -> i32 {
        self.weight - self.digits.len() as i32 + 1
    }

    fn digit(&self, power: i32) -> u16 {
        usize::try_from(self.weight - power)
            .ok()
            .and_then(|place| self.digits.get(place).copied())
            .unwrap_or(0)
    }

    fn append_text(&self, out: &mut Vec<u8>) {
        if self.negative {
            out.push(b'-');
        }
        let whole = if self.digits.is_empty() || self.weight < 0 {
            0
        } else {
            self.weight
        };
        for power in (0..=whole).rev() {
            let digit = self.digit(power);
            let text = if power == whole {
                format!("{digit}")
            } else {
                format!("{digit:04}")
            };
            out.extend_from_slice(text.as_bytes());
        }
        if self.scale == 0 {
            return;
        }
        out.push(b'.');
        let end = out.len() + usize::from(self.scale);
        let mut power = -1;
        while out.len() < end {
            out.extend_from_slice(format!("{:04}", self.digit(power)).as_bytes());
            power -= 1;
        }
        out.truncate(end);
    }
}
