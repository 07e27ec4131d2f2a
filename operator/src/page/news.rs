//! What happened to each store, for the log of a page. The last of it is kept, so that who opens a page late
//! sees why things are as they are.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
};

use serde::Serialize;

use super::StoreName;
use crate::manage::Happening;

/// How much is kept of each store.
const KEPT: usize = 200;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Item {
    /// Later ones have higher numbers.
    id: u64,
    /// When, in milliseconds since 1970.
    at: i64,
    /// What, for programs.
    kind: &'static str,
    /// Whether somebody should look at it.
    warning: bool,
    /// What, for people.
    text: String,
}

impl Item {
    pub(super) fn id(&self) -> u64 {
        self.id
    }
}

#[derive(Debug, Default)]
struct Shelf {
    last: u64,
    items: VecDeque<Item>,
}

/// The log of every store. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct News {
    shelves: Arc<Mutex<HashMap<StoreName, Shelf>>>,
}

impl News {
    /// Adds a line.
    pub fn tell(&self, store: &StoreName, kind: &'static str, warning: bool, text: String) {
        let mut shelves = self.lock();
        let shelf = shelves.entry(store.clone()).or_default();
        shelf.last += 1;
        if shelf.items.len() == KEPT {
            shelf.items.pop_front();
        }
        shelf.items.push_back(Item { id: shelf.last, at: now_ms(), kind, warning, text });
    }

    /// Adds what a pass did.
    pub fn tell_all(&self, store: &StoreName, happenings: &[Happening]) {
        for happening in happenings {
            self.tell(store, happening.reason().as_str(), happening.is_warning(), happening.to_string());
        }
    }

    /// What came after the line with this number, and the number of the last.
    pub(super) fn since(&self, store: &StoreName, id: u64) -> (Vec<Item>, u64) {
        let shelves = self.lock();
        let Some(shelf) = shelves.get(store) else { return (Vec::new(), 0) };
        (shelf.items.iter().filter(|item| item.id > id).cloned().collect(), shelf.last)
    }

    /// Forgets a store that is gone.
    pub fn forget(&self, store: &StoreName) {
        self.lock().remove(store);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<StoreName, Shelf>> {
        self.shelves.lock().expect("nobody panics while holding the news")
    }
}

/// Milliseconds since 1970.
pub(super) fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept_and_each_is_told_once() {
        let (news, store) = (News::default(), super::super::tests::store());
        for n in 0..KEPT + 5 {
            news.tell(&store, "Test", false, n.to_string());
        }
        let (all, last) = news.since(&store, 0);
        assert_eq!((all.len(), all[0].text.as_str()), (KEPT, "5"));
        assert_eq!(news.since(&store, last).0, []);
        news.tell(&store, "Test", true, "new".to_owned());
        assert_eq!(news.since(&store, last).0.len(), 1);
        news.forget(&store);
        assert_eq!(news.since(&store, 0), (Vec::new(), 0));
    }
}
