//! Python's methods on strings, lists and maps, with a price asked in advance.
//!
//! minijinja charges what a method returns, but only once it exists: `s.replace(a, b)` or `"{:>99999999999}".format(1)`
//! would have taken the memory (and aborted the process) before the budget could say no.
use minijinja::{Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat::unknown_method_callback;
use std::fmt::{self, Write};

/// Bytes that one unit of fuel pays for.
const BYTES_PER_FUEL: u64 = 64;

pub(super) fn call(state: &mut State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    let Some(text) = value.as_str() else {
        return unknown_method_callback(state, value, method, args);
    };
    if method == "join"
        && let [items] = args
    {
        // Collected first, since some iterators can be read only once.
        let items: Vec<Value> = items.try_iter()?.collect();
        let item_bytes =
            items.iter().map(|item| text.len() + string_len(item)).fold(0, usize::saturating_add);
        afford(state, item_bytes)?;
        return unknown_method_callback(state, value, method, &[Value::from(items)]);
    }
    afford(state, result_bytes(text, method, args)?)?;
    unknown_method_callback(state, value, method, args)
}

/// Fails unless the fuel that is left pays for `bytes`.
pub(super) fn afford(state: &State, bytes: usize) -> Result<(), Error> {
    match state.fuel_levels() {
        Some((_, left)) if bytes as u64 / BYTES_PER_FUEL > left => Err(Error::from(ErrorKind::OutOfFuel)),
        _ => Ok(()),
    }
}

/// An upper bound of what a string method makes.
fn result_bytes(text: &str, method: &str, args: &[Value]) -> Result<usize, Error> {
    let pieces = |count: usize| text.len().saturating_add(count.saturating_mul(size_of::<Value>()));
    Ok(match (method, args) {
        ("replace", [old, new, ..]) => {
            let places = old.as_str().map_or(0, |old| text.matches(old).count());
            text.len().saturating_add(places.saturating_mul(string_len(new)))
        }
        ("split", []) => pieces(text.split_whitespace().count()),
        ("split", [separator, ..]) => match separator.as_str() {
            Some(separator) => pieces(text.matches(separator).count() + 1),
            None => pieces(text.split_whitespace().count()),
        },
        ("splitlines", _) => pieces(text.lines().count()),
        ("format", _) if text.contains(':') => {
            return Err(Error::new(
                ErrorKind::InvalidOperation,
                "str.format: format specifications are not supported",
            ));
        }
        ("format", _) => {
            let longest = args.iter().map(string_len).max().unwrap_or(0);
            text.len().saturating_add(text.matches('{').count().saturating_mul(longest))
        }
        // Case mapping makes a character at most three times longer.
        _ => text.len().saturating_mul(3),
    })
}

/// The length of a value printed. Lists may hold one long string many times, so they are counted, not printed.
fn string_len(value: &Value) -> usize {
    struct Count(usize);
    impl Write for Count {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0 = self.0.saturating_add(text.len());
            if self.0 > 1 << 30 { Err(fmt::Error) } else { Ok(()) }
        }
    }
    if let Some(text) = value.as_str() {
        return text.len();
    }
    let mut count = Count(0);
    // An error only says that the count is beyond any budget already.
    let _ = write!(count, "{value}");
    count.0
}
