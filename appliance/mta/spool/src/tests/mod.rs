mod crash;
mod disk;
mod world;
