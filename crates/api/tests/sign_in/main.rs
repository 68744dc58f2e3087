//! Every way to sign in, and every way in which it is refused, through the server's door (issue 6: points 1, 2, bad input).

mod certificate;
mod device;
mod external;
mod federated;
mod graph;
mod guests;
mod page;
mod refresh;
mod rotation;
mod world;
