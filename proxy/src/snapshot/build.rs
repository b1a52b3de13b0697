//! From resource changes to the next snapshot.
