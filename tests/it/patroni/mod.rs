//! Who the primary is where Patroni says it: real servers beside agents that answer as Patroni documents, and a real Patroni with its etcd.

mod agents;
mod cluster;
mod follows;

use std::sync::Arc;
use std::time::Instant;

use trunkline::cli::local::{Cluster, Server};
use trunkline::config;
use trunkline::topology::Topology;
use trunkline::topology::view::{Stage, View};
use trunkline::wire::tls::ServerEncryption;

use self::agents::{Agents, Says};
use crate::servers::{DEADLINE, own_cluster, wait_until};

/// A shard whose nodes have agents, and is watched.
struct Watched {
    cluster: Cluster,
    agents: Agents,
    topology: Arc<Topology>,
}

impl Watched {
    fn start(says: &[Says]) -> Watched {
        let cluster = own_cluster(1, u16::try_from(says.len() - 1).unwrap());
        cluster.shards()[0]
            .primary
            .run_sql("app", "GRANT pg_monitor TO app")
            .unwrap();
        let agents = Agents::start(says);
        let mut text = String::from(
            "health = { interval = \"100ms\", timeout = \"1s\" }\nusers = [{ name = \"app\", auth = \"trust\" }]\n\
             databases = [{ name = \"app\" }]\n[[shards]]\nname = \"s1\"\n",
        );
        let servers = cluster.shards()[0].servers();
        for (place, port) in servers.map(Server::port).enumerate() {
            text += &format!(
                "[[shards.nodes]]\nhost = \"127.0.0.1\"\nport = {port}\npatroni = \"http://127.0.0.1:{}\"\n",
                agents.ports[place]
            );
        }
        let config = Arc::new(config::parse(&text, "test.toml", &|_| None).expect("sound"));
        let encryption = Arc::new(ServerEncryption::load(&config.server_tls).unwrap());
        let topology = Arc::new(Topology::new(&config, encryption));
        tokio::spawn(Arc::clone(&topology).watch());
        Watched {
            cluster,
            agents,
            topology,
        }
    }

    fn server(&self, place: usize) -> &Server {
        self.cluster.shards()[0].servers().nth(place).unwrap()
    }

    fn view(&self) -> Arc<View> {
        Arc::clone(&self.topology.views().borrow())
    }

    fn primary(&self) -> Option<usize> {
        self.view().shards[0].primary.map(|place| place.0)
    }

    fn stages(&self) -> Vec<Stage> {
        let view = self.view();
        view.shards[0].nodes.iter().map(|node| node.stage).collect()
    }

    fn error(&self, place: usize) -> String {
        let nodes = self.topology.nodes();
        nodes[place].error.clone().unwrap_or_default()
    }

    #[track_caller]
    fn until(&self, what: &str, wanted: impl Fn(Option<usize>, &[Stage]) -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while !wanted(self.primary(), &self.stages()) {
            assert!(
                Instant::now() < deadline,
                "{what}: {:#?}",
                self.topology.nodes()
            );
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }

    /// Until each agent was asked so many times more.
    fn asked(&self, times: usize) {
        let before = self.agents.asked();
        wait_until("the agents are asked", || {
            let now = self.agents.asked();
            now.iter()
                .zip(&before)
                .all(|(now, before)| *now >= before + times)
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_is_one_by_both_words() {
    let watched = Watched::start(&[Says::Nothing, Says::Nothing]);
    watched.until("the nodes are seen", |primary, stages| {
        primary.is_none() && *stages == [Stage::Fenced, Stage::Up]
    });
    let trouble = watched.view().shards[0].trouble.clone().unwrap();
    assert!(
        trouble.contains("its Patroni does not say that it is the leader"),
        "{trouble}"
    );

    watched.agents.say(&[Says::Leader, Says::Replica]);
    watched.until("Patroni says who", |primary, stages| {
        primary == Some(0) && *stages == [Stage::Up; 2]
    });
    // A restart of all Patronis, an hour without them.
    for says in [Says::Nothing, Says::Hangs, Says::Nonsense] {
        watched.agents.say(&[says, says]);
        watched.asked(4);
        assert_eq!(watched.primary(), Some(0), "{says:?}");
        assert!(
            watched.error(0).contains("its Patroni does not answer"),
            "{says:?}: {}",
            watched.error(0)
        );
    }
    watched.agents.say(&[Says::Leader, Says::Replica]);
    watched.asked(2);
    wait_until("nothing is wrong", || watched.error(0).is_empty());

    // Its lock has gone, and nobody else has it.
    watched.agents.say(&[Says::Replica, Says::Replica]);
    watched.until("no primary", |primary, stages| {
        primary.is_none() && stages[0] == Stage::Fenced
    });
    let error = watched.error(0);
    assert!(error.contains("role replica, state running"), "{error}");
    watched.agents.say(&[Says::Leader, Says::Replica]);
    watched.until("it has it again", |primary, _| primary == Some(0));
}

/// A replica that is promoted by hand is not the primary, on whichever timeline; the leader is, and nobody in between.
#[tokio::test(flavor = "multi_thread")]
async fn a_promotion_without_the_lock_makes_no_primary() {
    let watched = Watched::start(&[Says::Leader, Says::Replica]);
    watched.until("all is well", |primary, stages| {
        primary == Some(0) && *stages == [Stage::Up; 2]
    });
    watched
        .server(1)
        .run_sql("postgres", "SELECT pg_promote()")
        .unwrap();
    watched.until("the other one is fenced", |_, stages| {
        stages[1] == Stage::Fenced
    });
    assert_ne!(watched.primary(), Some(1));
    watched.until("the leader stays", |primary, stages| {
        primary == Some(0) && *stages == [Stage::Up, Stage::Fenced]
    });
    watched.asked(3);
    assert_eq!(watched.primary(), Some(0));
    let error = watched.error(1);
    assert!(
        error.contains("its Patroni does not say that it is the leader"),
        "{error}"
    );

    // The lock goes over. From the first look on the old one gets nothing.
    watched.agents.say(&[Says::Replica, Says::Leader]);
    watched.until("the lock decides", |primary, stages| {
        primary == Some(1) && *stages == [Stage::Fenced, Stage::Up]
    });
}
