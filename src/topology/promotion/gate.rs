//! A gate before a primary: nothing is lent of it, and statements wait as they do while a shard has none. Pure.

use std::sync::Arc;

use crate::topology::view::{NodePlace, ShardView, Stage};

/// It hides one node, so that it is no obstacle once another one is the primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gate {
    pub node: NodePlace,
    /// For those who have waited too long.
    pub why: Arc<str>,
}

impl Gate {
    /// What is shown of a shard while the gate stands.
    pub(in crate::topology) fn over(&self, view: ShardView) -> ShardView {
        if view.primary != Some(self.node) {
            return view;
        }
        let mut shown = view;
        shown.primary = None;
        shown.trouble = Some(Arc::clone(&self.why));
        // Reads that it takes beside replicas go to those.
        if let Some(node) = shown.nodes.get_mut(self.node.0)
            && node.stage == Stage::Up
        {
            node.stage = Stage::Drained;
        }
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::view::NodeView;

    fn view(primary: Option<usize>) -> ShardView {
        let node = |_| NodeView {
            stage: Stage::Up,
            marks: Arc::default(),
            returned: None,
        };
        ShardView {
            primary: primary.map(NodePlace),
            trouble: None,
            nodes: (0..2).map(node).collect(),
            written: Arc::default(),
        }
    }

    #[test]
    fn it_hides_one_primary_and_no_other() {
        let gate = Gate {
            node: NodePlace(0),
            why: "a switchover is under way".into(),
        };
        let shown = gate.over(view(Some(0)));
        assert_eq!(shown.primary, None);
        assert_eq!(shown.trouble.as_deref(), Some("a switchover is under way"));
        assert_eq!(shown.nodes[0].stage, Stage::Drained);
        assert_eq!(shown.nodes[1].stage, Stage::Up);
        let shown = gate.over(view(Some(1)));
        assert_eq!(shown.primary, Some(NodePlace(1)));
        assert_eq!(shown.nodes[0].stage, Stage::Up);
        assert_eq!(gate.over(view(None)).trouble, None);
    }
}
