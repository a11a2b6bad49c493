//! Nodes that come, go and move by RELOAD while clients write and read: nobody is told of an error, and nothing is lost.

use super::load::Load;
use super::process::Process;
use super::replicas::READS;
use super::stage::{NodeLine, Stage, nodes_of};
use crate::commit::cutting::Relays;

const CLIENTS: usize = 8;

#[test]
fn nodes_that_come_and_go_and_move() {
    let stage = Stage::start(1, 2);
    let [primary, first, second] = [0, 1, 2].map(|place| stage.port(place));
    // Other addresses of the same servers.
    let relays = Relays::start(&stage.ports());
    let moved = relays.ports().to_vec();
    let text = |nodes: &[u16]| Stage::configuration(&[nodes.to_vec()], READS);
    let proxy = Process::start(&text(&[primary, first]));
    let load = Load::start_at(proxy.port, CLIENTS);
    for (what, nodes, writes) in [
        ("a replica comes", vec![primary, first, second], primary),
        ("a replica goes", vec![primary, second], primary),
        ("they change places", vec![second, primary], primary),
        ("a replica moves", vec![moved[2], primary], primary),
        ("the primary moves", vec![moved[2], moved[0]], moved[0]),
        ("all is as before", vec![primary, first], primary),
    ] {
        proxy.reload(&text(&nodes));
        let settled = |lines: &[NodeLine]| {
            let ports = lines.iter().map(|line| line.port);
            let is_up = |line: &NodeLine| line.stage == "up";
            ports.eq(nodes.iter().copied())
                && lines.iter().all(is_up)
                && lines
                    .iter()
                    .any(|line| line.port == writes && line.is_primary)
        };
        nodes_of(proxy.port, what, settled);
        load.progress(20 * CLIENTS);
    }
    let report = load.end();
    println!("RELOAD: {report}");
    assert!(report.failures.is_empty(), "{report}");
    report.agrees_with(&stage, 0);
}
