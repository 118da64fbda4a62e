//! Appends that no read returned have no order among themselves. Where that matters, their orders are
//! tried: a level is possible if one of them is free of its cycles.
//!
//! Serializability needs none of this: a graph without any cycle has a topological order, and the
//! appends may take place in it. Between two components of the graph the order is free of cycles if
//! it is that of the components. So only appends to one key within one component are tried.

use super::{
    cycles::{Order, has_single},
    graph::{EdgeKind, Graph, Kinds},
};

/// Whether some order of the open appends is free of cycles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settled {
    /// One is.
    Possible,
    /// None is.
    Impossible,
    /// There are too many.
    Unknown,
}

/// What an order must be free of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Forbidden {
    /// Cycles without two anti-dependencies side by side.
    Nonadjacent,
    /// Cycles with at most one anti-dependency.
    Single,
}

/// The most edges that are looked at while orders are tried.
const STEPS_MAX: u64 = 20_000_000;

/// Tries the orders of groups of nodes that write the same key.
pub(super) fn settle(
    graph: &Graph,
    groups: &[Vec<u32>],
    order: Order,
    forbidden: Forbidden,
) -> Settled {
    let mut steps = STEPS_MAX;
    let mut orders: Vec<Vec<u32>> = groups.to_vec();
    orders.iter_mut().for_each(|group| group.sort_unstable());
    loop {
        steps = steps.saturating_sub(graph.edge_count() as u64 + 100);
        if steps == 0 {
            return Settled::Unknown;
        }
        match is_free(graph, &orders, order, forbidden) {
            Some(true) => return Settled::Possible,
            Some(false) => {}
            None => return Settled::Unknown,
        }
        // The next combination, as an odometer counts.
        let Some(at) = orders.iter_mut().position(|group| next_permutation(group)) else {
            return Settled::Impossible;
        };
        orders[..at].iter().for_each(|group| debug_assert!(group.is_sorted()));
    }
}

/// Advances to the next permutation; after the last, goes back to the first and says so.
fn next_permutation(items: &mut [u32]) -> bool {
    let Some(at) = (1..items.len()).rev().find(|at| items[at - 1] < items[*at]) else {
        items.reverse();
        return false;
    };
    let larger = (at..items.len()).rev().find(|other| items[*other] > items[at - 1]);
    items.swap(at - 1, larger.unwrap_or(at));
    items[at..].reverse();
    true
}

fn is_free(graph: &Graph, orders: &[Vec<u32>], order: Order, forbidden: Forbidden) -> Option<bool> {
    let kinds = Kinds::WW.and(Kinds::WR).and(Kinds::RW).and(order.kinds());
    let ordered = Graph::new(graph.transactions, graph.nodes(), |emit| {
        for node in 0..graph.nodes() {
            graph.edges(node, kinds).for_each(|edge| emit(node, edge.target(), edge.kind()));
        }
        for pair in orders.iter().flat_map(|group| group.windows(2)) {
            emit(pair[0], pair[1], EdgeKind::Ww);
        }
    });
    match forbidden {
        Forbidden::Nonadjacent => Some(!ordered.without_adjacent_rw(kinds).has_cycle(kinds)),
        Forbidden::Single => has_single(&ordered, order, STEPS_MAX).map(|has| !has),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permutations_are_all_visited_once() {
        let mut items = [1, 2, 3, 4];
        let mut seen = vec![items];
        while next_permutation(&mut items) {
            seen.push(items);
        }
        assert_eq!(items, [1, 2, 3, 4], "it starts again");
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 24);
    }

    #[test]
    fn two_writers_that_miss_each_other_have_no_order_under_snapshot_isolation() {
        // Each reads what the other overwrites, and both append to a third key.
        let skew = Graph::new(2, 2, |emit| {
            emit(0, 1, EdgeKind::Rw);
            emit(1, 0, EdgeKind::Rw);
        });
        let order = Order::Dependencies;
        let settle = |groups: &[Vec<u32>]| settle(&skew, groups, order, Forbidden::Nonadjacent);
        assert_eq!(settle(&[vec![0, 1]]), Settled::Impossible);
        assert_eq!(settle(&[]), Settled::Possible);
    }
}
