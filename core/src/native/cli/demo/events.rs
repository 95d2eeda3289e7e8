//! What the demonstration is about: the rows of a CSV file as events, or orders made up for it.

use std::path::Path;

use indicatif::ProgressBar;
use serde_json::{Map, Number, Value, json};

use crate::native::cli::position::parse_time;
use crate::{Error, ErrorKind, Result, Timestamp};

/// How many orders are made up where no file is given.
const SAMPLE: usize = 200_000;

/// A record to send, and to compare with what comes back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) key: Vec<u8>,
    pub(super) value: Vec<u8>,
    pub(super) timestamp: Timestamp,
    pub(super) headers: Vec<(String, Vec<u8>)>,
}

impl Event {
    /// Bytes of data: key, value, headers.
    pub(super) fn size(&self) -> u64 {
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        (self.key.len() + self.value.len() + headers) as u64
    }
}

/// Which columns of a file are what.
#[derive(Debug)]
pub(super) struct Columns<'a> {
    pub(super) key: &'a str,
    pub(super) time: &'a str,
    pub(super) headers: &'a [String],
}

/// Every row of `path` as a JSON event.
pub(super) fn from_csv(path: &Path, columns: &Columns<'_>, bar: &ProgressBar) -> Result<Vec<Event>> {
    let at = |error: csv::Error| {
        Error::new(ErrorKind::Invalid, format!("the file cannot be read as CSV: {error} file={}", path.display()))
    };
    let size = std::fs::metadata(path)
        .map_err(|error| Error::from(error).context(format_args!("cannot read {}", path.display())))?
        .len();
    bar.set_length(size);
    let mut reader = csv::Reader::from_path(path).map_err(at)?;
    let names = reader.headers().map_err(at)?.clone();
    let column = |name: &str| {
        names.iter().position(|known| known == name).ok_or_else(|| {
            let known: Vec<&str> = names.iter().collect();
            let message = format!(
                "the file has no such column column={name} file={} columns={}",
                path.display(),
                known.join(",")
            );
            Error::new(ErrorKind::Invalid, message)
        })
    };
    let (key, time) = (column(columns.key)?, column(columns.time)?);
    let headers: Vec<(usize, &String)> =
        columns.headers.iter().map(|name| Ok((column(name)?, name))).collect::<Result<_>>()?;
    let mut events = Vec::new();
    let mut row = csv::StringRecord::new();
    while reader.read_record(&mut row).map_err(at)? {
        let cell = |column: usize| row.get(column).unwrap_or_default();
        let timestamp = parse_time(cell(time)).ok_or_else(|| {
            let line = row.position().map_or(0, csv::Position::line);
            let message = format!(
                "not a time such as 2013-01-01T05:00:00Z column={} value={} line={line} file={}",
                columns.time,
                cell(time),
                path.display()
            );
            Error::new(ErrorKind::Invalid, message)
        })?;
        let fields: Map<String, Value> =
            names.iter().zip(row.iter()).map(|(name, cell)| (name.to_owned(), value_of(cell))).collect();
        events.push(Event {
            key: cell(key).as_bytes().to_vec(),
            value: Value::Object(fields).to_string().into_bytes(),
            timestamp,
            headers: headers.iter().map(|(at, name)| ((*name).clone(), cell(*at).as_bytes().to_vec())).collect(),
        });
        if events.len() % 1_000 == 0 {
            bar.set_position(reader.position().byte());
        }
    }
    Ok(events)
}

/// A cell as JSON: numbers as numbers, nothing (R writes NA) as null.
fn value_of(cell: &str) -> Value {
    match cell {
        "" | "NA" => Value::Null,
        cell => cell.parse::<Number>().map_or_else(|_| Value::from(cell), Value::Number),
    }
}

/// Orders of a shop, the same at every call.
pub(super) fn sample(bar: &ProgressBar) -> Vec<Event> {
    const ITEMS: [&str; 8] = ["tea", "teapot", "cup", "saucer", "kettle", "strainer", "honey", "biscuits"];
    const CITIES: [&str; 5] = ["Lisbon", "Oslo", "Kraków", "Napoli", "Gent"];
    bar.set_length(SAMPLE as u64);
    // xorshift64*, from a seed of its own.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut below = move |limit: u64| {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit
    };
    let mut timestamp = 1_767_225_600_000;
    (0..SAMPLE)
        .map(|number| {
            timestamp += below(400) as i64;
            let customer = format!("customer-{:04}", below(3_000));
            let lines: Vec<Value> = (0..=below(3))
                .map(|_| {
                    let price = 100 + below(9_900);
                    json!({"item": ITEMS[below(8) as usize], "quantity": 1 + below(5), "cents": price})
                })
                .collect();
            let city = CITIES[below(5) as usize];
            let value = json!({"order": number, "customer": customer, "time": timestamp, "city": city, "lines": lines});
            bar.inc(1);
            Event {
                key: customer.into_bytes(),
                value: value.to_string().into_bytes(),
                timestamp,
                headers: vec![("city".to_owned(), city.as_bytes().to_vec())],
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_become_json() {
        let cells: Vec<Value> = ["", "NA", "5", "-1.5", "UA", "007"].map(value_of).into();
        assert_eq!(Value::from(cells).to_string(), r#"[null,null,5,-1.5,"UA","007"]"#);
    }
}
