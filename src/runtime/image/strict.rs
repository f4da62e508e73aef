//! JSON of a stranger: read through once before it is believed. A key that stands twice means one thing to this reader
//! and another to the next; nesting and lists without end are there to exhaust.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::limits::Limits;

/// # Errors
/// Where the text is no JSON, a key stands twice in one object, objects are nested too deep, or it has more values than
/// the limits allow.
pub fn check(text: &[u8], limits: &Limits) -> Result<(), String> {
    let mut reader = serde_json::Deserializer::from_slice(text);
    let left = Cell::new(limits.json_values);
    let whole = Check { depth: limits.json_depth, left: &left, limits };
    let checked = whole.deserialize(&mut reader).and_then(|()| reader.end());
    checked.map_err(|error| error.to_string())
}

struct Check<'a> {
    depth: usize,
    /// Values that may still come.
    left: &'a Cell<usize>,
    limits: &'a Limits,
}

impl<'a> Check<'a> {
    fn inner<E: serde::de::Error>(&self) -> Result<Check<'a>, E> {
        let depth = self.depth.checked_sub(1);
        let depth =
            depth.ok_or_else(|| E::custom(format_args!("it is nested deeper than {}", self.limits.json_depth)))?;
        Ok(Check { depth, ..*self })
    }
}

impl<'de> DeserializeSeed<'de> for Check<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        let (left, most) = (self.left.get().checked_sub(1), self.limits.json_values);
        let many = || serde::de::Error::custom(format_args!("it has more than {most} values"));
        self.left.set(left.ok_or_else(many)?);
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Check<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = BTreeSet::new();
        while let Some(key) = map.next_key::<String>()? {
            if seen.contains(&key) {
                return Err(serde::de::Error::custom(format_args!("the key {key:?} stands twice")));
            }
            seen.insert(key);
            map.next_value_seed(self.inner()?)?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut all: A) -> Result<(), A::Error> {
        while all.next_element_seed(self.inner()?)?.is_some() {}
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Limits, check};

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        for (text, expected) in [
            ("{\"a\":[1,-2,0.5,true,null,\"x\",{\"b\":{}}],\"c\":{\"b\":1}}", ""),
            ("{\"a\":1,\"a\":1}", "stands twice"),
            ("{\"x\":[{\"b\":1,\"c\":2,\"b\":3}]}", "stands twice"),
            ("[[[[[[]]]]]]", "deeper than 4"),
            ("[1,2,3,4,5,6,7,8,9,10,11]", ""),
            ("[1,2,3,4,5,6,7,8,9,10,11,12]", "more than 12 values"),
            ("{\"a\":[1,2,3,4,5],\"b\":[1,2,3,4,5]}", "more than 12 values"),
            ("{} x", "trailing"),
            ("", "EOF"),
        ] {
            let limits = Limits { json_depth: 4, json_values: 12, ..Limits::default() };
            let found = check(text.as_bytes(), &limits).err().unwrap_or_default();
            assert!(found.contains(expected) && found.is_empty() == expected.is_empty(), "{text}: {found}");
        }
    }
}
