//! The router: timeout → retry → attempt (cluster → pick host → lease → send → observe).
