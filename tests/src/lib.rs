//! The harness that the tests of the whole share.
