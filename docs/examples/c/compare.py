"""Train the same model with RMSprop.apply_gradients: do the bits agree?"""

import csv
import math

import numpy as np

from rmsprop_fast import RMSprop

MEASURES = ("bill_length_mm", "bill_depth_mm", "flipper_length_mm", "body_mass_g")
SPECIES = ("Adelie", "Chinstrap", "Gentoo")

with open("penguins.csv", newline="") as file:
    birds = list(csv.DictReader(file))
train = [k for k in range(len(birds)) if k % 5 != 4]
x = [[float(bird[name]) for name in MEASURES] for bird in birds]
y = [float(bird["sex"] == "male") for bird in birds]

# C adds one number after the other; so does this, where NumPy and Python would not.
for column in range(len(MEASURES)):
    mean = variance = 0.0
    for k in train:
        mean += x[k][column]
    mean /= len(train)
    for k in train:
        variance += (x[k][column] - mean) * (x[k][column] - mean)
    for row in x:
        row[column] = (row[column] - mean) / math.sqrt(variance / len(train))
for row, bird in zip(x, birds, strict=True):
    row += [float(bird["species"] == name) for name in SPECIES]

weights = np.zeros(len(x[0]))
opt = RMSprop(learning_rate=0.01)
for _ in range(300):
    grad, w = [0.0] * len(weights), weights.tolist()
    for k in train:
        z = 0.0
        for j, value in enumerate(x[k]):
            z += w[j] * value
        error = 1 / (1 + math.exp(-z)) - y[k]
        for j, value in enumerate(x[k]):
            grad[j] += error * value
    opt.apply_gradients([(np.array(grad), weights)])

equal = weights.tobytes() == np.fromfile("weights.bin").tobytes()
print("bit for bit the weights of apply_gradients:", equal)
