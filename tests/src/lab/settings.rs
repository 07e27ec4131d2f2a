//! Quorum and delay of a running store: read, changed until they are in force, and put back.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use kube::{
    Api,
    api::{DynamicObject, Patch, PatchParams},
};
use quorumkv_api::{
    Delay, SettingsPatch, WriteQuorum,
    client::{CallError, PeerClient},
    lab::StatusReply,
    peer::Refusal,
    settings::format_duration,
};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{
    program::{Context, Failure},
    store::Store,
};
use crate::wait;

/// How long a change may take to be in force, with every follower connected.
const APPLIED_WITHIN: Duration = Duration::from_secs(30);

/// How long is tried to put the settings back.
const RESTORED_WITHIN: Duration = Duration::from_secs(20);

/// How late a change may arrive that was asked for before.
const STRAGGLER: Duration = Duration::from_millis(200);

/// How a store's settings are changed.
#[derive(Clone)]
pub struct Control(Way);

#[derive(Clone)]
enum Way {
    /// `PUT /settings` on the leader's peer port.
    PeerPort { url: String, client: PeerClient },
    /// A patch of the KvCluster's spec, which the operator carries out.
    KvCluster { api: Box<Api<DynamicObject>>, name: String },
}

/// What a store had, in the form in which it is put back.
#[derive(Debug, Clone, PartialEq)]
pub enum Original {
    /// What the leader had in force.
    InForce(SettingsPatch),
    /// What the spec said.
    Spec(Value),
}

impl Control {
    /// By `PUT /settings` on the leader's peer port.
    #[must_use]
    pub fn peer_port(url: String, client: PeerClient) -> Self {
        Self(Way::PeerPort { url, client })
    }

    /// By a patch of the KvCluster's spec.
    #[must_use]
    pub fn kv_cluster(api: Api<DynamicObject>, name: String) -> Self {
        Self(Way::KvCluster { api: Box::new(api), name })
    }

    /// Asks for a change, without waiting until it is in force.
    pub(super) async fn ask(&self, change: &Original) -> anyhow::Result<()> {
        match (&self.0, change) {
            (Way::PeerPort { url, client }, Original::InForce(patch)) => {
                client.settings(url, patch).await.map_err(explained)?;
            }
            (Way::KvCluster { api, name }, Original::Spec(spec)) => {
                let patch = Patch::Merge(json!({"spec": spec}));
                api.patch(name, &PatchParams::default(), &patch).await.context("the patch of the KvCluster")?;
            }
            (Way::PeerPort { .. }, Original::Spec(_)) | (Way::KvCluster { .. }, Original::InForce(_)) => {
                unreachable!("settings are put back the way they were read")
            }
        }
        Ok(())
    }

    /// The change that sets both.
    pub(super) fn change(&self, write_quorum: u8, delay: Delay) -> Original {
        match &self.0 {
            Way::PeerPort { .. } => Original::InForce(SettingsPatch {
                write_quorum: Some(WriteQuorum(write_quorum)),
                delay: Some(delay),
                write_timeout: None,
            }),
            Way::KvCluster { .. } => {
                let (min, max) = (format_duration(delay.min), format_duration(delay.max));
                Original::Spec(json!({"writeQuorum": write_quorum, "delay": {"min": min, "max": max}}))
            }
        }
    }
}

/// A 401 alone does not say what to do.
fn explained(error: CallError) -> anyhow::Error {
    let missing_token = matches!(&error, CallError::Refused { refusal, .. } if refusal.reason == Refusal::Unauthorized);
    let error = anyhow::Error::new(error);
    if missing_token {
        return error.context(
            "the peer port asks for a token: give it with --peer-token, or use --cluster where an operator runs the store",
        );
    }
    error
}

impl Store {
    /// `GET /status` of the leader.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn status(&self) -> anyhow::Result<StatusReply> {
        self.client.status(&self.leader().url).await
    }

    /// Quorum and delay as they are.
    ///
    /// # Errors
    /// When they cannot be read.
    pub async fn settings(&self) -> anyhow::Result<Original> {
        Ok(match &self.control.0 {
            Way::PeerPort { .. } => {
                let StatusReply { write_quorum, delay, .. } = self.status().await.context("the settings in force")?;
                let patch = SettingsPatch { write_quorum: Some(write_quorum), delay: Some(delay), write_timeout: None };
                Original::InForce(patch)
            }
            Way::KvCluster { api, name } => {
                let object = api.get(name).await.context("the KvCluster's spec")?;
                let spec = &object.data["spec"];
                Original::Spec(json!({"writeQuorum": spec["writeQuorum"], "delay": spec["delay"]}))
            }
        })
    }

    /// Changes quorum and delay and waits until both are in force and every follower is connected.
    ///
    /// # Errors
    /// When they are refused, or do not come into force in time.
    pub async fn change_settings(&self, write_quorum: u8, delay: Delay) -> anyhow::Result<StatusReply> {
        let what = format!("write quorum {write_quorum} and delay {delay} in force");
        self.control.ask(&self.control.change(write_quorum, delay)).await.with_context(|| what.clone())?;
        wait::until(&what, APPLIED_WITHIN, || async {
            let status = self.status().await?;
            self.ensure_in_force(&status, write_quorum, delay)?;
            let connected = status.followers.iter().filter(|follower| follower.connected).count();
            ensure!(
                connected == self.followers().len(),
                "{connected} of {} followers connected",
                self.followers().len()
            );
            Ok(status)
        })
        .await
    }

    /// Refuses a status that has other settings.
    ///
    /// # Errors
    /// Names what is in force instead.
    pub fn ensure_in_force(&self, status: &StatusReply, write_quorum: u8, delay: Delay) -> anyhow::Result<()> {
        let StatusReply { write_quorum: quorum_now, delay: delay_now, .. } = status;
        ensure!(
            quorum_now.0 == write_quorum && *delay_now == delay,
            "write quorum {quorum_now} and delay {delay_now} are in force (another hand, or an operator, changed them)"
        );
        Ok(())
    }

    /// Does `work`, then puts quorum and delay back, whatever became of it: also when it failed, and when a
    /// signal ended it. A store of the program's own is left as it is: it ends anyway.
    ///
    /// # Errors
    /// Those of `work`, and when the settings cannot be put back.
    pub async fn restoring<T>(
        &self,
        context: &Context,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let original = context.unless_interrupted(async { Ok(self.settings().await?) }).await?;
        let done = context.unless_interrupted(work).await;
        if !self.embedded {
            self.restore(context, &original).await?;
        }
        done
    }

    async fn restore(&self, context: &Context, original: &Original) -> Result<(), Failure> {
        context.progress("Putting quorum and delay back");
        let restored = wait::until("quorum and delay put back", RESTORED_WITHIN, || async {
            // Twice: a change that was under way when the work was cut short may arrive after the first time.
            for _ in 0..2 {
                self.control.ask(original).await?;
                ensure!(self.settings().await? == *original, "not in force yet");
                sleep(STRAGGLER).await;
            }
            Ok(())
        });
        let restored = tokio::select! {
            restored = restored => restored,
            // The second signal: who sends it does not want to wait.
            _ = context.signalled(2) => Err(anyhow::anyhow!("interrupted again")),
        };
        Ok(restored.with_context(|| format!("the store is not as it was found, which is {original:?}"))?)
    }
}
