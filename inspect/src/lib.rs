//! Looks into stores from outside, for the programs that people run and for the tests.
//!
//! [`tunnel`] reaches Services and pods through the API server, [`compare`] tells whether replicas hold the same,
//! [`token`] is what is presented to them, [`wait`] waits for conditions, [`table`] prints what was found.

pub mod compare;
pub mod table;
pub mod token;
pub mod tunnel;
pub mod wait;
