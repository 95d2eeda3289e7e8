//! `ottla status`.

use clap::Args;
use serde_json::json;

use super::connection::{Connection, ConnectionArgs};
use super::promote::{NODE_HEADERS, node_json, node_row, one_broker};
use super::{Output, table};
use crate::Result;
use crate::broker::Times;
use crate::replication::{Costs, Survey, costs, survey};

/// Arguments of `ottla status`.
#[derive(Debug, Args)]
pub(super) struct Status {
    /// A broker of the cluster: kafka://HOST:PORT
    #[arg(value_name = "BROKER")]
    broker: String,

    #[command(flatten)]
    connection: ConnectionArgs,
}

impl Status {
    pub(super) fn run(self, output: Output) -> Result<()> {
        let endpoint = one_broker(&self.broker)?;
        let source = Connection::open(&format!("kafka://{endpoint}"), &self.connection)?;
        let client = source.plain_client()?;
        let seen = source.block_on(survey(&client, &endpoint))?;
        let costs = source.block_on(costs(&client, &endpoint, &seen))?;
        if output.json { show_json(&seen, &costs, output) } else { show(&seen, &costs, output) }
    }
}

fn show_json(seen: &Survey, costs: &Costs, output: Output) -> Result<()> {
    for node in &seen.nodes {
        let mut line = node_json(seen, node);
        line["stored_bytes"] = json!(costs.stored.get(&node.node_id));
        output.result(|| line, String::new)?;
    }
    let times = |times: Times| json!({"p50": times.p50, "p99": times.p99});
    let acks_all = costs.latency.map(|latency| {
        json!({
            "answered": latency.count, "us": times(latency.total), "own_sync_us": times(latency.own),
            "followers_us": times(latency.added),
        })
    });
    output.result(
        || {
            json!({
                "leader": costs.leader, "stored_bytes": costs.stored.values().sum::<u64>(),
                "stored_for_each_byte": costs.stored_for_each_byte(), "acks_all": acks_all,
            })
        },
        String::new,
    )
}

fn show(seen: &Survey, costs: &Costs, output: Output) -> Result<()> {
    let rows = seen.nodes.iter().map(|node| {
        let mut row = node_row(seen, node);
        row.push(costs.stored.get(&node.node_id).map_or(String::new(), |bytes| table::bytes(*bytes)));
        row
    });
    let headers: Vec<&str> = NODE_HEADERS.into_iter().chain(["stores"]).collect();
    let mut text = table::draw(&headers, &rows.collect::<Vec<_>>());
    if let Some(times) = costs.stored_for_each_byte() {
        text += &format!("\nstored: {times:.2} bytes for each byte that the leader has");
    }
    match costs.latency {
        Some(latency) if latency.count > 0 => {
            let answers = table::plural(usize::try_from(latency.count).unwrap_or(usize::MAX), "answer");
            text += &format!("\nacks=all since the leader was started: {answers}");
            let parts = [
                ("until answered", latency.total),
                ("its own sync", latency.own),
                ("followers after that", latency.added),
            ];
            for (name, Times { p50, p99 }) in parts {
                text +=
                    &format!("\n  {name:<21} p50 {:>9} µs  p99 {:>9} µs", table::count_u64(p50), table::count_u64(p99));
            }
        }
        Some(_) => text += "\nacks=all: nothing was produced since the leader was started",
        None => text += "\nno leader answers",
    }
    output.result(|| serde_json::Value::Null, || text)
}
