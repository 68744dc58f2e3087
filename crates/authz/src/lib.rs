//! Who may do what: tokens, role definitions, the evaluator.
