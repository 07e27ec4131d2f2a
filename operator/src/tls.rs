//! Certificates of stores that speak TLS: how they are made, and how they are replaced so that nobody is refused
//! meanwhile. Pure, but for randomness; the flow is in `controller/tls`.

pub mod make;
pub mod rotation;
