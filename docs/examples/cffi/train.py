"""How heavy is a penguin? Linear regression in C, then with apply_gradients."""

import csv

import numpy as np
from _regression import ffi, lib

from rmsprop_fast import RMSprop, kernels

SPECIES = ("Adelie", "Chinstrap", "Gentoo")
MEASURES = ("bill_length_mm", "bill_depth_mm", "flipper_length_mm")
STEPS = 2000

with open("penguins.csv", newline="") as file:
    birds = list(csv.DictReader(file))
measures = np.array([[float(bird[name]) for name in MEASURES] for bird in birds])
measures = (measures - measures.mean(axis=0)) / measures.std(axis=0)
species = [[float(bird["species"] == name) for name in SPECIES] for bird in birds]
is_male = [[float(bird["sex"] == "male")] for bird in birds]
x = np.hstack([measures, species, is_male])
y = np.array([float(bird["body_mass_g"]) / 1000 for bird in birds])
width = x.shape[1]


def pointer(array):
    return ffi.from_buffer("double[]", array)


# The function that Cython code would cimport; it needs no GIL and may use many threads.
update = ffi.cast("update", kernels.address("rmsprop_dense_f64"))

weights, rms, mom, grad = np.zeros((4, width))
state = map(pointer, (weights, rms, mom, grad))
kernels.check(lib.train(update, pointer(x), pointer(y), len(x), width, *state, STEPS))
error = np.sqrt(np.mean((x @ weights - y) ** 2))
print(f"{len(x)} penguins, error {1000 * error:.0f} g of {1000 * y.std():.0f} g")

ours = weights.copy()
weights[:] = 0
opt = RMSprop(0.001, momentum=0.9)
for _ in range(STEPS):
    lib.gradient(pointer(x), pointer(y), len(x), width, pointer(weights), pointer(grad))
    opt.apply_gradients([(grad, weights)])
equal = ours.tobytes() == weights.tobytes()
print("bit for bit the weights of apply_gradients:", equal)
