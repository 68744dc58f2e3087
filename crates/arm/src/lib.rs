//! Wire vocabulary of Azure Resource Manager: ids, errors, bodies. No I/O.
