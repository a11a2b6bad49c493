mod script;
mod survival;
mod world;
