//! The reasons of events, each of which docs/events.md explains.

use std::fmt;

macro_rules! reasons {
    ($($(#[$documentation:meta])* $reason:ident $warns:literal),* $(,)?) => {
        /// Why an event is published.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Reason {
            $($(#[$documentation])* $reason),*
        }

        impl Reason {
            /// Every one.
            pub const ALL: &[Self] = &[$(Self::$reason),*];

            /// As it stands in the event.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$reason => stringify!($reason)),*
                }
            }

            /// Whether somebody should look at it.
            #[must_use]
            pub const fn is_warning(self) -> bool {
                match self {
                    $(Self::$reason => $warns),*
                }
            }
        }
    };
}

reasons! {
    /// An election begins.
    Electing false,
    /// A leader was promoted.
    Promoted false,
    /// An election ended without a leader.
    ElectionFailed true,
    /// A switchover led to whom it was asked for.
    SwitchedOver false,
    /// The node that was asked for leads already.
    SwitchoverNotNeeded false,
    /// A switchover is not tried.
    SwitchoverRefused true,
    /// A switchover was begun, and the node that was asked for does not lead.
    SwitchoverMissed true,
    /// A copy that had to learn counts from now on.
    MemberRecorded false,
    /// Nodes are replaced by ones of the present description, one after the other.
    Rolling false,
    /// Every node is of the present description.
    Rolled false,
    /// Nodes are still to be replaced, and none of them can be now.
    RollHeld true,
    /// The store is about to sleep.
    Hibernating false,
    /// Nothing of the store runs any more.
    Hibernated false,
    /// The store sleeps, and some copies lack entries that others hold.
    HibernatedUnsettled true,
    /// The store does not sleep, since its volumes would go with its pods.
    HibernationHeld true,
    /// The store wakes up.
    Waking false,
    /// Volumes are made larger.
    VolumesGrowing false,
    /// Every volume has the size of the spec.
    VolumesGrown false,
    /// A volume cannot be made larger.
    VolumesCannotGrow true,
    /// A node shall be one of the store's.
    NodeJoining false,
    /// It is.
    NodeJoined false,
    /// A node shall be none of the store's.
    NodeLeaving false,
    /// It is none any more.
    NodeLeft false,
    /// A node neither joins nor leaves after all.
    ScalingGivenUp false,
    /// The number of nodes cannot be changed yet.
    ScalingWaits true,
    /// New settings are in force.
    SettingsApplied false,
    /// New settings are refused for now.
    SettingsRefused true,
    /// Every copy was lost, and the store starts again with nothing.
    DataLost true,
    /// The spec cannot be built.
    InvalidSpec true,
    /// Something of the store's namespace may not be listed, and nothing is done for the store.
    NamespaceUnseen true,
    /// Something besides the store's own work cannot be done for it.
    KubernetesRefuses true,
    /// An object of a name that the store needs belongs to somebody else.
    ForeignObject true,
    /// The Secret with the peer token holds none.
    NoToken true,
    /// Every node that answers refuses the operator's token.
    NodesRefuseToken true,
    /// A certificate for the nodes was made.
    CertificateMade false,
    /// Every node shows the new certificate.
    CertificateRotated false,
    /// Nobody has renewed the certificate, and its end is near.
    CertificateExpiring true,
    /// The certificate is accepted no more.
    CertificateExpired true,
    /// The Secret with the certificates is missing, or nodes would refuse what it holds.
    TlsSecretInvalid true,
    /// The record in the status cannot be understood.
    UnreadableRecord true,
    /// The store is left alone from now on.
    Paused false,
    /// The store is looked after again.
    Resumed false,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Rows of the page's tables: reason and type.
    fn rows(page: &str) -> BTreeMap<&str, &str> {
        let cells = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
        cells.map(|(reason, rest)| (reason, rest.split(" |").next().unwrap_or_default())).collect()
    }

    #[test]
    fn the_page_of_events_explains_every_reason_and_no_other() {
        let page = include_str!("../../docs/events.md");
        let kind = |reason: &Reason| if reason.is_warning() { "Warning" } else { "Normal" };
        let expected = Reason::ALL.iter().map(|reason| (reason.as_str(), kind(reason))).collect();
        assert_eq!(rows(page), expected, "docs/events.md has a row | `Reason` | Type | … for each");
    }
}
