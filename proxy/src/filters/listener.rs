//! Listener filters are driven by `listener/connection.rs`; each keeps its parser in `listener/detect.rs`.
