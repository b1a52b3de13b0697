//! Where hosts come from: static lists, DNS, EDS, original destination.
