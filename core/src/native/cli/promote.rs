//! `ottla promote`.

use clap::Args;
use serde_json::json;

use super::connection::{Connection, ConnectionArgs};
use super::{Output, table};
use crate::replication::{Survey, promote, survey};
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
        let address = self.follower.trim_start_matches("kafka://").trim_end_matches('/');
        if address.contains(',') {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("one broker is promoted, give one address given={address}"),
            ));
        }
        let endpoint = Endpoint::parse(address)?;
        let source = Connection::open(&format!("kafka://{address}"), &self.connection)?;
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

/// Which broker has what.
fn show(seen: &Survey, loss: Option<&str>, output: Output) -> Result<()> {
    let partitions = seen.partitions.len();
    if output.json {
        for node in &seen.nodes {
            let (behind, in_sync) = seen.standing(node);
            let ends = node.ends.iter().map(|(partition, (epoch, end))| {
                json!({"topic": &*partition.topic, "partition": partition.partition, "end": end, "leader_epoch": epoch})
            });
            let line = json!({
                "node": node.node_id, "address": node.endpoint.to_string(), "asked": node.node_id == seen.node_id,
                "leader": node.leader, "leader_epoch": node.leader_epoch, "behind": behind, "in_sync": in_sync,
                "partitions": partitions, "ends": ends.collect::<Vec<_>>(), "error": node.error,
            });
            output.result(|| line, String::new)?;
        }
        return output.result(|| json!({"loss": loss}), String::new);
    }
    let rows: Vec<Vec<String>> = seen
        .nodes
        .iter()
        .map(|node| {
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
                format!("{in_sync} of {partitions}"),
                if node.error.is_some() { String::new() } else { table::count_u64(behind) },
                if epoch < 0 { String::new() } else { table::count(i64::from(epoch)) },
            ]
        })
        .collect();
    let headers = ["node", "address", "is", "in sync", "records behind", "last epoch"];
    output.say(table::draw(&headers, &rows));
    Ok(())
}
