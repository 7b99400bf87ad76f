//! From a definition to a signed bundle.
