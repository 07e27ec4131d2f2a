//! Watches of all namespaces, one, or several, each as one stream of events.
//!
//! A watch begins, and begins anew after a break, with a list of everything; a reflector then forgets what the list
//! lacks. Of several watches, each with the objects of one namespace, that would be what all others found. So the first
//! lists are put together into one, and what a watch lists later becomes its difference to what it knew.

use std::{collections::HashMap, fmt::Debug, mem};

use futures::{
    Stream, StreamExt,
    stream::{self, BoxStream, select_all},
};
use k8s_openapi::NamespaceResourceScope;
use kube::{
    Api, Client, Resource, ResourceExt,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use serde::de::DeserializeOwned;

/// Events of one kind of object, for a reflector.
pub type Events<K> = BoxStream<'static, watcher::Result<Event<K>>>;

/// Watches these namespaces; all, where none is named. A watch that fails is repeated, more and more slowly.
///
/// Objects come without the list of who set which field: nobody here reads it, and of a pod it is half of what is kept.
pub fn watch<K>(client: &Client, namespaces: &[String], config: &watcher::Config) -> Events<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    let one = |api: Api<K>| -> Events<K> {
        watcher(api, config.clone()).default_backoff().modify(|object| object.managed_fields_mut().clear()).boxed()
    };
    match namespaces {
        [] => one(Api::all(client.clone())),
        [namespace] => one(Api::namespaced(client.clone(), namespace)),
        several => {
            let each = several.iter().map(|namespace| one(Api::namespaced(client.clone(), namespace)));
            merged(each.collect()).boxed()
        }
    }
}

fn merged<K: Resource + Clone + Send + 'static>(
    watches: Vec<Events<K>>,
) -> impl Stream<Item = watcher::Result<Event<K>>> + Send {
    let mut merger = Merger::of(watches.len());
    let numbered = watches.into_iter().enumerate().map(|(number, events)| events.map(move |event| (number, event)));
    select_all(numbered).flat_map(move |(number, event)| {
        stream::iter(match event {
            Ok(event) => merger.take(number, event).into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error)],
        })
    })
}

struct Merger<K> {
    watches: Vec<Watched<K>>,
    /// Whether all have listed once.
    complete: bool,
}

struct Watched<K> {
    /// By name: each watch is of one namespace.
    known: HashMap<String, K>,
    /// A list that is not over yet.
    listing: HashMap<String, K>,
    listed: bool,
}

impl<K: Resource + Clone> Merger<K> {
    fn of(watches: usize) -> Self {
        let empty = || Watched { known: HashMap::new(), listing: HashMap::new(), listed: false };
        Self { watches: (0..watches).map(|_| empty()).collect(), complete: false }
    }

    /// What an event of one watch means for all.
    fn take(&mut self, number: usize, event: Event<K>) -> Vec<Event<K>> {
        let watch = &mut self.watches[number];
        match event {
            Event::Init => watch.listing.clear(),
            Event::InitApply(object) => {
                watch.listing.insert(object.name_any(), object);
            }
            Event::InitDone => {
                watch.listed = true;
                let listed = mem::take(&mut watch.listing);
                let before = mem::replace(&mut watch.known, listed);
                if self.complete {
                    return difference(before, &self.watches[number].known);
                }
                if self.watches.iter().all(|watch| watch.listed) {
                    self.complete = true;
                    return self.all();
                }
            }
            Event::Apply(object) => {
                watch.known.insert(object.name_any(), object.clone());
                return self.once_complete(Event::Apply(object));
            }
            Event::Delete(object) => {
                watch.known.remove(&object.name_any());
                return self.once_complete(Event::Delete(object));
            }
        }
        Vec::new()
    }

    /// Before that, the list of all will tell.
    fn once_complete(&self, event: Event<K>) -> Vec<Event<K>> {
        if self.complete { vec![event] } else { Vec::new() }
    }

    fn all(&self) -> Vec<Event<K>> {
        let objects = self.watches.iter().flat_map(|watch| watch.known.values().cloned().map(Event::InitApply));
        [Event::Init].into_iter().chain(objects).chain([Event::InitDone]).collect()
    }
}

fn difference<K: Resource + Clone>(before: HashMap<String, K>, now: &HashMap<String, K>) -> Vec<Event<K>> {
    let same = |object: &K| {
        let known = before.get(&object.name_any());
        known.is_some_and(|known| {
            known.meta().uid == object.meta().uid && known.resource_version() == object.resource_version()
        })
    };
    let applied: Vec<_> = now.values().filter(|object| !same(object)).cloned().map(Event::Apply).collect();
    let gone = before.into_iter().filter(|(name, _)| !now.contains_key(name)).map(|(_, object)| Event::Delete(object));
    gone.chain(applied).collect()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use kube::runtime::reflector;
    use serde_json::json;

    use super::*;

    fn pod(namespace: &str, name: &str, version: u32) -> Pod {
        let meta = json!({
            "namespace": namespace, "name": name, "uid": format!("{namespace}-{name}"), "resourceVersion": version.to_string(),
        });
        serde_json::from_value(json!({"metadata": meta})).expect("a pod")
    }

    fn list(pods: &[Pod]) -> Vec<Event<Pod>> {
        let pods = pods.iter().cloned().map(Event::InitApply);
        [Event::Init].into_iter().chain(pods).chain([Event::InitDone]).collect()
    }

    /// The merged events of two watches that come in this order, as text.
    fn told(merger: &mut Merger<Pod>, events: impl IntoIterator<Item = (usize, Event<Pod>)>) -> Vec<String> {
        let told = events.into_iter().flat_map(|(number, event)| merger.take(number, event));
        let mut told: Vec<String> = told
            .map(|event| match event {
                Event::Init => "1 init".to_owned(),
                Event::InitApply(pod) => format!("2 {}/{}", pod.namespace().unwrap_or_default(), pod.name_any()),
                Event::InitDone => "3 done".to_owned(),
                Event::Apply(pod) => format!("apply {}/{}", pod.namespace().unwrap_or_default(), pod.name_any()),
                Event::Delete(pod) => format!("delete {}/{}", pod.namespace().unwrap_or_default(), pod.name_any()),
            })
            .collect();
        // Within a list there is no order.
        told.sort();
        told
    }

    fn from(number: usize, events: Vec<Event<Pod>>) -> impl Iterator<Item = (usize, Event<Pod>)> {
        events.into_iter().map(move |event| (number, event))
    }

    #[test]
    fn the_first_lists_become_one() {
        let mut merger = Merger::of(2);
        assert!(told(&mut merger, from(0, list(&[pod("a", "x", 1)]))).is_empty(), "the other has not listed yet");
        assert!(told(&mut merger, [(0, Event::Apply(pod("a", "y", 2)))]).is_empty());
        assert!(told(&mut merger, [(0, Event::Delete(pod("a", "x", 3)))]).is_empty());
        let all = told(&mut merger, from(1, list(&[pod("b", "x", 1)])));
        assert_eq!(all, ["1 init", "2 a/y", "2 b/x", "3 done"]);
        let later = told(&mut merger, [(0, Event::Apply(pod("a", "z", 4))), (1, Event::Delete(pod("b", "x", 5)))]);
        assert_eq!(later, ["apply a/z", "delete b/x"]);
    }

    #[test]
    fn a_later_list_is_a_difference() {
        let mut merger = Merger::of(2);
        told(&mut merger, from(0, list(&[pod("a", "stays", 1), pod("a", "changes", 1), pod("a", "goes", 1)])));
        told(&mut merger, from(1, list(&[pod("b", "other", 1)])));
        let again = list(&[pod("a", "stays", 1), pod("a", "changes", 2), pod("a", "comes", 3)]);
        let told = told(&mut merger, from(0, again));
        assert_eq!(told, ["apply a/changes", "apply a/comes", "delete a/goes"]);
    }

    /// As the reflector sees it: what one watch lists anew takes nothing away that another found.
    #[tokio::test]
    async fn a_reflector_keeps_what_every_watch_found() {
        let a = [list(&[pod("a", "x", 1), pod("a", "y", 1)]), list(&[pod("a", "y", 1)])].concat();
        let b = list(&[pod("b", "x", 1)]);
        let watches = [a, b].map(|events| stream::iter(events.into_iter().map(Ok)).boxed());
        let (store, writer) = reflector::store();
        let merged = merged(watches.into()).reflect(writer);
        merged
            .for_each(async |event| {
                event.expect("no error");
            })
            .await;
        let mut held: Vec<String> = store
            .state()
            .iter()
            .map(|pod| format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any()))
            .collect();
        held.sort();
        assert_eq!(held, ["a/y", "b/x"]);
    }
}
