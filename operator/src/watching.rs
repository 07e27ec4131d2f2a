//! Watches of all namespaces, one, or several, each as one stream of events.
//!
//! A watch begins, and begins anew after a break, with a list of everything; a reflector then forgets what the list
//! lacks. Of several watches, each with the objects of one namespace, that would be what all others found. So the first
//! lists are put together into one, and what a watch lists later becomes its difference to what it knew.
//!
//! One namespace of several that is gone, its Role with it, refuses its list for ever, and must not keep the others
//! waiting. Its part of the first list is empty, and a [gap](Gaps) says that this is not known, but assumed. What an API
//! server fails to answer, for whatever other reason, is waited for; so is the only namespace, and the last of all: an
//! operator that may list nothing has nothing to work with.

mod gaps;

use std::{collections::HashMap, fmt::Debug, mem, task::Poll};

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

pub use self::gaps::{Gap, Gaps};

/// Events of one kind of object, for a reflector.
pub type Events<K> = BoxStream<'static, watcher::Result<Event<K>>>;

/// Watches these namespaces; all, where none is named. A watch that fails is repeated, more and more slowly. Of several
/// namespaces, those that may not be listed are in `gaps` until they are.
///
/// Objects come without the list of who set which field: nobody here reads it, and of a pod it is half of what is kept.
pub fn watch<K>(client: &Client, namespaces: &[String], config: &watcher::Config, gaps: &Gaps) -> Events<K>
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
            let each =
                several.iter().map(|namespace| (namespace.clone(), one(Api::namespaced(client.clone(), namespace))));
            merged(each.collect(), gaps.clone()).boxed()
        }
    }
}

fn merged<K: Resource<DynamicType = ()> + Clone + Send + 'static>(
    watches: Vec<(String, Events<K>)>,
    gaps: Gaps,
) -> impl Stream<Item = watcher::Result<Event<K>>> + Send {
    let mut merger = Merger::of(watches.len());
    let (namespaces, watches): (Vec<String>, Vec<Events<K>>) = watches.into_iter().unzip();
    let numbered = watches.into_iter().enumerate().map(|(number, events)| events.map(move |event| (number, event)));
    select_all(numbered).flat_map(move |(number, event)| {
        let kind = K::plural(&());
        let listed = matches!(event, Ok(Event::InitDone));
        let told = match event {
            Ok(event) => merger.take(number, event).into_iter().map(Ok).collect(),
            Err(error) if is_refusal(&error) && !merger.has_listed(number) => {
                gaps.open(&namespaces[number], &kind, &error);
                merger.count_as_empty(number).into_iter().map(Ok).collect()
            }
            Err(error) => vec![Err(error)],
        };
        let filled = listed.then(|| (gaps.clone(), namespaces[number].clone()));
        // Whoever asks for what follows has taken over all that was told: only then the gap is none any more.
        let afterwards = stream::poll_fn(move |_| {
            if let Some((gaps, namespace)) = &filled {
                gaps.close(namespace, &kind);
            }
            Poll::Ready(None)
        });
        stream::iter(told).chain(afterwards)
    })
}

/// Whether the API server says that there is nothing to list, or not for this operator: not that it cannot tell.
fn is_refusal(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::InitialListFailed(kube::Error::Api(status)) if matches!(status.code, 403 | 404))
}

struct Merger<K> {
    watches: Vec<Watched<K>>,
    /// Whether all have listed once, or may not.
    complete: bool,
}

struct Watched<K> {
    /// By name: each watch is of one namespace.
    known: HashMap<String, K>,
    /// A list that is not over yet.
    listing: HashMap<String, K>,
    listed: bool,
    /// Nothing is waited for.
    refused: bool,
}

impl<K: Resource + Clone> Merger<K> {
    fn of(watches: usize) -> Self {
        let empty = || Watched { known: HashMap::new(), listing: HashMap::new(), listed: false, refused: false };
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
                return self.all_if_complete();
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

    fn has_listed(&self, number: usize) -> bool {
        self.watches[number].listed
    }

    /// A watch that may not list is not waited for.
    fn count_as_empty(&mut self, number: usize) -> Vec<Event<K>> {
        self.watches[number].refused = true;
        if self.complete { Vec::new() } else { self.all_if_complete() }
    }

    fn all_if_complete(&mut self) -> Vec<Event<K>> {
        let known = |watch: &Watched<K>| watch.listed || watch.refused;
        self.complete = self.watches.iter().all(known) && self.watches.iter().any(|watch| watch.listed);
        if self.complete { self.all() } else { Vec::new() }
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
    use futures::{FutureExt, channel::mpsc};
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
        let watches = [("a", a), ("b", b)]
            .map(|(namespace, events)| (namespace.to_owned(), stream::iter(events.into_iter().map(Ok)).boxed()));
        let (store, writer) = reflector::store();
        let merged = merged(watches.into(), Gaps::default()).reflect(writer);
        merged
            .for_each(async |event| {
                event.expect("no error");
            })
            .await;
        assert_eq!(held(&store), ["a/y", "b/x"]);
    }

    fn held(store: &reflector::Store<Pod>) -> Vec<String> {
        let name = |pod: &std::sync::Arc<Pod>| format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any());
        let mut held: Vec<String> = store.state().iter().map(name).collect();
        held.sort();
        held
    }

    type Told = mpsc::UnboundedSender<watcher::Result<Event<Pod>>>;

    /// Watches of `a` and `b` that tell what they are told to, and what becomes of it in a cache.
    struct Watching {
        tell: [Told; 2],
        merged: Events<Pod>,
        store: reflector::Store<Pod>,
        gaps: Gaps,
    }

    impl Watching {
        fn begin() -> Self {
            let (gaps, (store, writer)) = (Gaps::default(), reflector::store());
            let [(a, from_a), (b, from_b)] = [(); 2].map(|()| mpsc::unbounded());
            let watches = vec![("a".to_owned(), from_a.boxed()), ("b".to_owned(), from_b.boxed())];
            let merged = merged(watches, gaps.clone()).reflect(writer).boxed();
            Self { tell: [a, b], merged, store, gaps }
        }

        fn lists(&self, number: usize, pods: &[Pod]) {
            for event in list(pods) {
                self.tell[number].unbounded_send(Ok(event)).expect("it is watched");
            }
        }

        fn fails(&self, number: usize, code: u16) {
            let status = kube::core::Status::failure("as scripted", "Scripted").with_code(code);
            let error = watcher::Error::InitialListFailed(kube::Error::Api(status.boxed()));
            self.tell[number].unbounded_send(Ok(Event::Init)).expect("it is watched");
            self.tell[number].unbounded_send(Err(error)).expect("it is watched");
        }

        /// Takes in all that was told; how many errors were passed on.
        fn settle(&mut self) -> usize {
            let mut errors = 0;
            while let Some(event) = self.merged.next().now_or_never() {
                errors += usize::from(event.expect("it goes on").is_err());
            }
            errors
        }

        fn is_filled(&self) -> bool {
            self.store.wait_until_ready().now_or_never().is_some()
        }
    }

    #[rstest::rstest]
    #[case::the_role_is_gone(403)]
    #[case::the_kind_is_gone(404)]
    fn a_namespace_that_may_not_be_listed_keeps_no_other_waiting(#[case] code: u16) {
        let mut watching = Watching::begin();
        watching.fails(1, code);
        assert_eq!(watching.settle(), 0, "it is told once, by itself");
        assert!(!watching.is_filled(), "the other has not listed yet");
        watching.lists(0, &[pod("a", "x", 1)]);
        watching.fails(1, code);
        assert_eq!(watching.settle(), 0);
        assert!(watching.is_filled());
        assert_eq!(held(&watching.store), ["a/x"]);
        let gap = watching.gaps.of("b").expect("nothing is known of it");
        assert!(gap.to_string().contains("may not list pods in namespace b"), "{gap}");
        assert!(watching.gaps.of("a").is_none());
        // Its Role is there again.
        watching.lists(1, &[pod("b", "y", 1), pod("b", "z", 1)]);
        let first = watching.merged.next().now_or_never();
        assert!(matches!(first, Some(Some(Ok(Event::Apply(_))))), "a difference, and no list of all");
        assert!(watching.gaps.of("b").is_some(), "half of it is known");
        watching.settle();
        assert!(watching.gaps.of("b").is_none());
        assert_eq!(held(&watching.store), ["a/x", "b/y", "b/z"]);
        // From now on that is an error like any other.
        watching.fails(1, code);
        assert_eq!(watching.settle(), 1);
        assert!(watching.gaps.of("b").is_none() && held(&watching.store).len() == 3);
    }

    #[rstest::rstest]
    #[case::somebody_else(401)]
    #[case::too_many_requests(429)]
    #[case::failing(500)]
    #[case::away(503)]
    fn an_api_server_that_cannot_tell_is_waited_for(#[case] code: u16) {
        let mut watching = Watching::begin();
        watching.lists(0, &[pod("a", "x", 1)]);
        watching.fails(1, code);
        assert_eq!(watching.settle(), 1);
        assert!(!watching.is_filled() && watching.gaps.of("b").is_none());
        watching.lists(1, &[]);
        watching.settle();
        assert!(watching.is_filled());
    }

    #[test]
    fn an_operator_that_may_list_nothing_waits() {
        let mut watching = Watching::begin();
        watching.fails(0, 403);
        watching.fails(1, 403);
        watching.settle();
        assert!(!watching.is_filled());
        watching.lists(1, &[]);
        watching.settle();
        assert!(watching.is_filled() && watching.gaps.of("a").is_some() && watching.gaps.of("b").is_none());
    }
}
