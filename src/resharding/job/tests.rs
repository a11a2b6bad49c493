mod survival;
mod world;
