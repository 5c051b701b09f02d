//! Parsing of the messages of clients.
//!
//! A value is not converted: it stays the text that the client sent, as a part of the body. So the
//! memory of a message is that of its body, and a value that is sent back is the same text. In an
//! object that has a key twice, the first one counts, as in Bitcoin Core.
//!
//! Nothing here parses into a [`serde_json::Value`]: with the features `raw_value` and
//! `arbitrary_precision`, serde_json takes some objects for something else.

use std::{fmt, marker::PhantomData};

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// Returns the body as JSON text, or `None` if it is not JSON or is nested deeper than serde_json
/// allows (128 levels).
pub(super) fn check(body: &[u8]) -> Option<&RawValue> {
    serde_json::from_slice::<Checked>(body).ok()?;
    serde_json::from_slice(body).ok()
}

/// The members of a request.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Members<'a> {
    pub(super) id: Option<&'a RawValue>,
    pub(super) jsonrpc: Option<&'a RawValue>,
    pub(super) method: Option<&'a RawValue>,
    pub(super) params: Option<&'a RawValue>,
}

impl<'a> Members<'a> {
    /// Returns the members of an object, or `None` for another value.
    pub(super) fn of(value: &'a RawValue) -> Option<Members<'a>> {
        let mut members = Members::default();
        for_each_member(value, |name, value| {
            let member = match name {
                "id" => &mut members.id,
                "jsonrpc" => &mut members.jsonrpc,
                "method" => &mut members.method,
                "params" => &mut members.params,
                _ => return,
            };
            member.get_or_insert(value);
        })
        .then_some(members)
    }
}

/// Calls `each` for each member of an object, in order. Returns `false` for another value.
pub(super) fn for_each_member<'a>(
    object: &'a RawValue,
    mut each: impl FnMut(&str, &'a RawValue),
) -> bool {
    let mut deserializer = serde_json::Deserializer::from_str(object.get());
    deserializer
        .deserialize_map(Each(
            |name: Option<&str>, value| {
                if let Some(name) = name {
                    each(name, value);
                }
            },
            PhantomData,
        ))
        .is_ok()
}

/// Calls `each` for each element of an array, in order. Returns `false` for another value.
pub(super) fn for_each_element<'a>(
    array: &'a RawValue,
    mut each: impl FnMut(&'a RawValue),
) -> bool {
    let mut deserializer = serde_json::Deserializer::from_str(array.get());
    deserializer.deserialize_seq(Each(|_: Option<&str>, value| each(value), PhantomData)).is_ok()
}

/// Returns the content of a string, or `None` for another value.
pub(super) fn string(value: &RawValue) -> Option<String> {
    serde_json::from_str(value.get()).ok()
}

pub(super) fn is_null(value: &RawValue) -> bool {
    value.get() == "null"
}

/// A value whose syntax is checked and that is not kept.
struct Checked;

impl<'de> Deserialize<'de> for Checked {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Checked, D::Error> {
        deserializer.deserialize_any(CheckedVisitor)
    }
}

struct CheckedVisitor;

impl<'de> Visitor<'de> for CheckedVisitor {
    type Value = Checked;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Checked, E> {
        Ok(Checked)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Checked, E> {
        Ok(Checked)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Checked, E> {
        Ok(Checked)
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Checked, E> {
        Ok(Checked)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Checked, E> {
        Ok(Checked)
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Checked, E> {
        Ok(Checked)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Checked, A::Error> {
        while array.next_element::<Checked>()?.is_some() {}
        Ok(Checked)
    }

    /// With `arbitrary_precision`, serde_json passes a number as a map, so that it has no limit.
    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Checked, A::Error> {
        while object.next_entry::<Checked, Checked>()?.is_some() {}
        Ok(Checked)
    }
}

/// Calls the function for each member, with its name, or for each element.
struct Each<'a, F: FnMut(Option<&str>, &'a RawValue)>(F, PhantomData<&'a RawValue>);

impl<'a, F: FnMut(Option<&str>, &'a RawValue)> Visitor<'a> for Each<'a, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array or an object")
    }

    fn visit_seq<A: SeqAccess<'a>>(mut self, mut array: A) -> Result<(), A::Error> {
        while let Some(value) = array.next_element()? {
            self.0(None, value);
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'a>>(mut self, mut object: A) -> Result<(), A::Error> {
        while let Some(name) = object.next_key::<String>()? {
            let value = object.next_value()?;
            self.0(Some(&name), value);
        }
        Ok(())
    }
}
