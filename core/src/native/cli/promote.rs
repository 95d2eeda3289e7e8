//! `ottla promote`.

use clap::Args;
use serde_json::json;

use super::connection::{Connection, ConnectionArgs};
use super::{Output, table};
use crate::replication::{NodeState, Survey, promote, survey};
use crate::transport::Endpoint;
use crate::{Error, ErrorKind, Result};

/// Arguments of `ottla promote`.
#[derive(Debug, Args)]
pub(super) struct Promote {
    /// The follower that is to lead: kafka://HOST:PORT
    #[arg(value_name = "FOLLOWER")]
    follower: String,

    /// Promote it even if records that were acknowledged may be lost
    #[arg(long)]
    unclean: bool,

    /// Show which broker has what, and promote none
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    connection: ConnectionArgs,
}

impl Promote {
    pub(super) fn run(self, output: Output) -> Result<()> {
        let endpoint = one_broker(&self.follower)?;
        let source = Connection::open(&format!("kafka://{endpoint}"), &self.connection)?;
        let client = source.plain_client()?;
        let seen = source.block_on(survey(&client, &endpoint))?;
        let loss = seen.loss();
        show(&seen, loss.as_deref(), output)?;
        if self.dry_run {
            return Ok(());
        }
        if seen.node().is_some_and(|node| node.leads()) {
            output.say(format!("{endpoint} leads already"));
            return Ok(());
        }
        if let Some(loss) = loss.filter(|_| !self.unclean) {
            let message = format!(
                "not promoted, because acknowledged records may be lost; --unclean promotes it all the same: {loss}"
            );
            return Err(Error::new(ErrorKind::Fenced, message));
        }
        // Where the leader cannot hand over, this command has found out that nothing is lost, or was told not to mind.
        let unclean = self.unclean || seen.leader().is_none();
        source.block_on(promote(&client, &endpoint, unclean))?;
        let now = source.block_on(survey(&client, &endpoint))?;
        let epoch = now.node().map_or(-1, |node| node.leader_epoch);
        output.result(
            || json!({"promoted": now.node_id, "address": endpoint.to_string(), "leader_epoch": epoch}),
            || format!("node {} at {endpoint} leads, in epoch {}", now.node_id, table::count(i64::from(epoch))),
        )
    }
}

/// The address of the one broker that is asked: `[kafka://]HOST:PORT`.
pub(super) fn one_broker(given: &str) -> Result<Endpoint> {
    let address = given.trim_start_matches("kafka://").trim_end_matches('/');
    if address.contains(',') {
        return Err(Error::new(ErrorKind::Invalid, format!("one broker is asked, give one address given={address}")));
    }
    Endpoint::parse(address)
}

/// Which broker has what.
fn show(seen: &Survey, loss: Option<&str>, output: Output) -> Result<()> {
    if output.json {
        for node in &seen.nodes {
            output.result(|| node_json(seen, node), String::new)?;
        }
        return output.result(|| json!({"loss": loss}), String::new);
    }
    let rows: Vec<Vec<String>> = seen.nodes.iter().map(|node| node_row(seen, node)).collect();
    output.say(table::draw(&NODE_HEADERS, &rows));
    Ok(())
}

/// What is said of a broker.
pub(super) fn node_json(seen: &Survey, node: &NodeState) -> serde_json::Value {
    let (behind, in_sync) = seen.standing(node);
    let ends = node.ends.iter().map(|(partition, (epoch, end))| {
        json!({"topic": &*partition.topic, "partition": partition.partition, "end": end, "leader_epoch": epoch})
    });
    json!({
        "node": node.node_id, "address": node.endpoint.to_string(), "asked": node.node_id == seen.node_id,
        "leader": node.leader, "leader_epoch": node.leader_epoch, "behind": behind, "in_sync": in_sync,
        "partitions": seen.partitions.len(), "ends": ends.collect::<Vec<_>>(), "error": node.error,
    })
}

/// The headers of [`node_row`].
pub(super) const NODE_HEADERS: [&str; 6] = ["node", "address", "is", "in sync", "records behind", "last epoch"];

/// What is said of a broker, as a row of a table.
pub(super) fn node_row(seen: &Survey, node: &NodeState) -> Vec<String> {
    let (behind, in_sync) = seen.standing(node);
    let role = match (&node.error, node.leads()) {
        (Some(_), _) => "does not answer".to_owned(),
        (None, true) => "leads".to_owned(),
        (None, false) => format!("follows node {}", node.leader.unwrap_or(-1)),
    };
    let epoch = node.ends.values().map(|(epoch, _)| *epoch).max().unwrap_or(-1);
    vec![
        format!("{}{}", node.node_id, if node.node_id == seen.node_id { " *" } else { "" }),
        node.endpoint.to_string(),
        role,
        format!("{in_sync} of {}", seen.partitions.len()),
        if node.error.is_some() { String::new() } else { table::count_u64(behind) },
        if epoch < 0 { String::new() } else { table::count(i64::from(epoch)) },
    ]
}
