//! The steps as a graph while it is being made, and its linear form.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use petgraph::Direction;
use petgraph::algo::has_path_connecting;
use petgraph::graph::{DiGraph, NodeIndex};
use petgraph::visit::EdgeRef;

use super::{After, Step};
use crate::reconcile::engine::{Action, Condition};
use crate::reconcile::resource::ResourceId;

/// What a step does to its resource. A resource has at most one step of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Do {
    CheckPorts,
    CheckSources,
    CheckExternal,
    CheckUser,
    CheckProgram,
    CheckNetwork,
    Repair,
    Rename,
    Stop,
    Remove,
    Create,
    Update,
    Start,
    Wait(Wait),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Wait {
    Started,
    Healthy,
    Completed,
}

impl From<Condition> for Wait {
    fn from(condition: Condition) -> Self {
        match condition {
            Condition::Started => Self::Started,
            Condition::Healthy => Self::Healthy,
            Condition::CompletedSuccessfully => Self::Completed,
        }
    }
}

/// Edges run from the earlier step to the later one; their weight tells whether the later one requires it.
#[derive(Default)]
pub(super) struct Graph {
    graph: DiGraph<Action, bool>,
    nodes: BTreeMap<(ResourceId, Do), NodeIndex>,
}

impl Graph {
    pub fn add(&mut self, id: &ResourceId, what: Do, action: Action) -> NodeIndex {
        let node = self.graph.add_node(action);
        self.nodes.insert((id.clone(), what), node);
        node
    }

    pub fn get(&self, id: &ResourceId, what: Do) -> Option<NodeIndex> {
        self.nodes.get(&(id.clone(), what)).copied()
    }

    /// The first of these steps that the resource has.
    pub fn first(&self, id: &ResourceId, whats: &[Do]) -> Option<NodeIndex> {
        whats.iter().find_map(|what| self.get(id, *what))
    }

    /// `later` is skipped when `earlier` fails. Nothing where one of them does not exist.
    pub fn require(&mut self, later: Option<NodeIndex>, earlier: Option<NodeIndex>) {
        self.edge(later, earlier, true);
    }

    /// `later` comes after `earlier`, whatever becomes of it.
    pub fn order(&mut self, later: Option<NodeIndex>, earlier: Option<NodeIndex>) {
        self.edge(later, earlier, false);
    }

    /// As `require` or `order`, but given up where it would close a circle.
    pub fn prefer(&mut self, later: Option<NodeIndex>, earlier: Option<NodeIndex>, required: bool) {
        let (Some(from), Some(to)) = (earlier, later) else { return };
        if from != to && !has_path_connecting(&self.graph, to, from, None) {
            self.edge(later, earlier, required);
        }
    }

    fn edge(&mut self, later: Option<NodeIndex>, earlier: Option<NodeIndex>, required: bool) {
        let (Some(later), Some(earlier)) = (later, earlier) else { return };
        if later == earlier {
            return;
        }
        match self.graph.find_edge(earlier, later) {
            Some(edge) => self.graph[edge] |= required,
            None => {
                self.graph.add_edge(earlier, later, required);
            }
        }
    }

    /// Steps that `node` directly requires.
    pub fn requirements(&self, node: NodeIndex) -> impl Iterator<Item = &Action> {
        let edges = self.graph.edges_directed(node, Direction::Incoming).filter(|edge| *edge.weight());
        edges.map(|edge| &self.graph[edge.source()])
    }

    /// Every step after those it waits for, otherwise in the order they were added. Steps of a circle keep the edges
    /// that can't be met; `check` finds them.
    pub fn into_steps(self) -> Vec<Step> {
        let order = self.linear();
        let mut place = vec![usize::MAX; self.graph.node_count()];
        for (index, node) in order.iter().enumerate() {
            place[node.index()] = index;
        }
        let steps = order.iter().map(|node| {
            let edges = self.graph.edges_directed(*node, Direction::Incoming);
            let mut after: Vec<After> =
                edges.map(|edge| After { step: place[edge.source().index()], required: *edge.weight() }).collect();
            after.sort_unstable();
            Step { action: self.graph[*node].clone(), after }
        });
        steps.collect()
    }

    fn linear(&self) -> Vec<NodeIndex> {
        let incoming = |node| self.graph.edges_directed(node, Direction::Incoming).count();
        let mut open: Vec<usize> = self.graph.node_indices().map(incoming).collect();
        let mut ready: BinaryHeap<Reverse<NodeIndex>> =
            self.graph.node_indices().filter(|node| open[node.index()] == 0).map(Reverse).collect();
        let mut order = Vec::new();
        while let Some(Reverse(node)) = ready.pop() {
            order.push(node);
            for next in self.graph.neighbors(node) {
                open[next.index()] -= 1;
                if open[next.index()] == 0 {
                    ready.push(Reverse(next));
                }
            }
        }
        order.extend(self.graph.node_indices().filter(|node| open[node.index()] > 0));
        order
    }
}
