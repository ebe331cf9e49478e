mod behaviour;
mod crash;
mod disk;
mod threads;
mod world;
