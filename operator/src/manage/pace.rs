//! How soon a store is looked at again.

use std::time::Duration;

use tokio::time::Instant;

use super::Pass;
use crate::{
    decide::{self, Leadership},
    scale::Scale,
    validate::Store,
};

/// While leadership is being taken: the Service has no leader before that is over.
const AT_ONCE: Duration = Duration::from_millis(100);
/// When the record has changed, and the leader has not heard of it.
const NEXT_STEP: Duration = Duration::from_millis(20);
/// While something is under way.
const SOON: Duration = Duration::from_millis(200);
/// While all is as it shall be; leaders are probed that often.
const STEADY: Duration = Duration::from_secs(1);
/// From here on what did not come for so long is not waited for with more haste than a steady store gets.
const PATIENCE: Duration = Duration::from_secs(30);

/// Since when a store is not what it shall be while nothing happens. Losing it costs a few more looks.
#[derive(Debug, Default)]
pub(super) struct Pace {
    waits_since: Option<Instant>,
}

impl Pace {
    /// The pause after this pass.
    pub(super) fn after(&mut self, pass: &Pass, store: &Store, now: Instant) -> Duration {
        if pass.leadership == Leadership::Settling {
            self.waits_since = None;
            return AT_ONCE;
        }
        if matches!(pass.scale, Scale::Begin(_) | Scale::Finish { .. } | Scale::GiveUp(_)) {
            self.waits_since = None;
            return NEXT_STEP;
        }
        if is_steady(pass, store) {
            self.waits_since = None;
            return STEADY;
        }
        if !pass.happenings.is_empty() {
            self.waits_since = Some(now);
        }
        // A pod that comes or goes is seen at once all the same.
        let waits = now.saturating_duration_since(*self.waits_since.get_or_insert(now));
        if waits < PATIENCE { SOON } else { STEADY }
    }
}

fn is_steady(pass: &Pass, store: &Store) -> bool {
    pass.leadership == Leadership::Active
        && store.switchover_to.is_none()
        && pass.settings_refusal.is_none()
        && pass.scale == Scale::Done
        && pass.happenings.is_empty()
        && decide::is_whole(&pass.situation(store))
}

#[cfg(test)]
mod tests {
    use quorumkv_api::peer::NodeChange;

    use super::*;
    use crate::{
        manage::Happening,
        testing::{Scene, name},
    };

    fn pass(scene: &Scene, leadership: Leadership) -> Pass {
        Pass { leadership, ..scene.pass() }
    }

    #[test]
    fn a_store_that_waits_is_looked_at_soon_and_then_as_often_as_any_other() {
        let (scene, began) = (Scene::steady(), Instant::now());
        let mut waiting = pass(&scene, Leadership::Suspect);
        let mut pace = Pace::default();
        let mut after = |pass: &Pass, seconds| pace.after(pass, &scene.store, began + Duration::from_secs(seconds));
        assert_eq!([0, 29, 30, 3000].map(|seconds| after(&waiting, seconds)), [SOON, SOON, STEADY, STEADY]);
        waiting.happenings.push(Happening::Reset);
        assert_eq!(after(&waiting, 3001), SOON, "something happened");
        waiting.happenings.clear();
        assert_eq!([3030, 3031].map(|seconds| after(&waiting, seconds)), [SOON, STEADY]);
        // Whatever it waited for came, and later it waits for something else.
        assert_eq!(after(&pass(&scene, Leadership::Active), 3032), STEADY);
        assert_eq!(after(&waiting, 3033), SOON);
    }

    #[test]
    fn what_is_just_being_done_is_not_waited_for() {
        let (scene, now) = (Scene::steady(), Instant::now());
        let mut pace = Pace::default();
        assert_eq!(pace.after(&pass(&scene, Leadership::Settling), &scene.store, now), AT_ONCE);
        let leaving = Pass { scale: Scale::GiveUp(NodeChange::Joining(name(6))), ..pass(&scene, Leadership::Active) };
        assert_eq!(pace.after(&leaving, &scene.store, now), NEXT_STEP);
    }
}
