//! Attacks on the pools of both adapters, judged by the books of the server.

mod both;
mod callers;
mod deliveries;
mod logins;
mod storm;
