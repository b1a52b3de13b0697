//! %COMMAND% operators.
