//! The proxy's configuration file for the demo's cluster, and which shard its range and geo maps name.

use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::{Addresses, DemoError};
use crate::cli::local::{Cluster, LocalShard};

/// First days of the quarters in which `events` are split; the first quarter is open to the past, the last to the future.
pub const QUARTERS: [&str; 4] = ["2026-01-01", "2026-04-01", "2026-07-01", "2026-10-01"];

/// Regions of `profiles`: name, countries, and the places of its shards among four.
pub const REGIONS: [(&str, &[&str], &[usize]); 3] = [
    ("europe", &["DE", "ES", "FR", "IT", "PL"], &[0, 1]),
    ("america", &["BR", "CA", "MX", "US"], &[2]),
    ("asia", &["IN", "JP", "KR"], &[3]),
];

/// The shard of a quarter, by its place in [`QUARTERS`].
pub fn shard_of_quarter(quarter: usize, shards: usize) -> usize {
    quarter % shards
}

/// The shards of a region, by its place in [`REGIONS`].
pub fn shards_of_region(region: usize, shards: usize) -> Vec<usize> {
    let mut found: Vec<usize> = REGIONS[region]
        .2
        .iter()
        .map(|place| place % shards)
        .collect();
    found.dedup();
    found
}

/// The whole file.
pub fn text(cluster: &Cluster, addresses: Addresses) -> String {
    let shards: Vec<&str> = cluster
        .shards()
        .iter()
        .map(|shard| shard.name.as_str())
        .collect();
    let nodes = cluster
        .shards()
        .iter()
        .map(|shard| (shard.name.as_str(), ports(shard)));
    let Addresses { clients, http } = addresses;
    format!(
        "# Written by `trunkline demo` at each start.\n\
         \n[listen]\naddresses = [\"{clients}\"]\nhttp = \"{http}\"\n\
         \n[log]\nfilter = \"warn\"\n\
         \n[server_tls]\nmode = \"disable\"\n\
         \n[[users]]\nname = \"{application}\"\npassword = \"{password}\"\nadmin = true\n\
         \n[[databases]]\nname = \"{application}\"\ndefault_shard = \"{home}\"\n\
         {shards}{distributions}{tables}",
        application = cluster.application(),
        password = cluster.application_password(),
        home = shards[0],
        distributions = distributions(&shards),
        shards = shard_entries(nodes),
        tables = TABLES,
    )
}

const TABLES: &str = r#"
[[tables]]
name = "customers"
distribution = "customers"
key = "customer_id"

[[tables]]
name = "orders"
distribution = "customers"
key = "customer_id"

[[tables]]
name = "order_lines"
distribution = "customers"
key = "customer_id"

[[tables]]
name = "events"
distribution = "events"
key = "happened_on"

[[tables]]
name = "profiles"
distribution = "profiles"
key = ["country", "user_id"]

[[tables]]
name = "countries"
placement = "reference"
"#;

fn ports(shard: &LocalShard) -> Vec<u16> {
    shard.servers().map(|server| server.port()).collect()
}

fn shard_entries<'a>(shards: impl Iterator<Item = (&'a str, Vec<u16>)>) -> String {
    shards.fold(String::new(), |mut text, (name, ports)| {
        let _ = writeln!(text, "\n[[shards]]\nname = \"{name}\"\nnodes = [");
        for port in ports {
            let _ = writeln!(text, "    {{ host = \"127.0.0.1\", port = {port} }},");
        }
        text + "]\n"
    })
}

fn distributions(shards: &[&str]) -> String {
    let quoted = |places: &[usize]| {
        places
            .iter()
            .map(|place| format!("\"{}\"", shards[*place]))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let all: Vec<usize> = (0..shards.len()).collect();
    let ranges: String = (0..QUARTERS.len())
        .map(|quarter| {
            let from = (quarter > 0).then(|| format!("from = {}, ", QUARTERS[quarter]));
            let to = QUARTERS.get(quarter + 1).map(|day| format!("to = {day}, "));
            let shard = shards[shard_of_quarter(quarter, shards.len())];
            let (from, to) = (from.unwrap_or_default(), to.unwrap_or_default());
            format!("    {{ {from}{to}shard = \"{shard}\" }},\n")
        })
        .collect();
    let regions: String = (0..REGIONS.len())
        .map(|region| {
            let (name, countries, _) = REGIONS[region];
            let homes = quoted(&shards_of_region(region, shards.len()));
            format!("    {{ name = \"{name}\", values = {countries:?}, shards = [{homes}] }},\n")
        })
        .collect();
    format!(
        "\n[[distributions]]\nname = \"customers\"\nkey = \"bigint\"\nstrategy = \"hash\"\nshards = [{hash}]\n\
         \n[[distributions]]\nname = \"events\"\nkey = \"date\"\nstrategy = \"range\"\nranges = [\n{ranges}]\n\
         \n[[distributions]]\nname = \"profiles\"\nkey = [\"text\", \"bigint\"]\nstrategy = \"geo\"\n\
         regions = [\n{regions}]\n",
        hash = quoted(&all),
    )
}

/// Writes the file for our eyes only: it holds a password.
pub(super) fn write(path: &Path, text: &str) -> Result<(), DemoError> {
    let written = std::fs::OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|source| DemoError::File {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_of_shards_gives_toml_with_known_shards_only() {
        let names = ["s1", "s2", "s3", "s4", "s5"];
        for number in 1..=names.len() {
            let shards = &names[..number];
            let entries = shard_entries(shards.iter().map(|name| (*name, vec![5432, 5433])));
            let file: toml::Table = (entries + &distributions(shards) + TABLES).parse().unwrap();
            let found = file["distributions"].as_array().unwrap();
            let named = |value: &toml::Value| shards.contains(&value.as_str().unwrap());
            assert!(found[0]["shards"].as_array().unwrap().iter().all(named));
            assert_eq!(found[0]["shards"].as_array().unwrap().len(), number);
            assert!(
                found[1]["ranges"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .all(|range| named(&range["shard"]))
            );
            assert_eq!(found[1]["ranges"].as_array().unwrap().len(), 4);
            let regions = found[2]["regions"].as_array().unwrap();
            assert!(
                regions
                    .iter()
                    .flat_map(|region| region["shards"].as_array().unwrap())
                    .all(named)
            );
        }
    }

    #[test]
    fn one_shard_is_named_once_in_a_region() {
        assert_eq!(shards_of_region(0, 1), [0]);
        assert_eq!(shards_of_region(0, 4), [0, 1]);
        assert_eq!(shards_of_region(2, 3), [0]);
    }
}
