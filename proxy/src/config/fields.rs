//! The field tables (D8): for each message we read, what becomes of each field; the walk over them; the compatibility page made from them.
