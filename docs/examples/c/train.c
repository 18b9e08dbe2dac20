/* Logistic regression with the header alone: is a penguin male? */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include <rmsprop_fast/rmsprop.h>

enum { MOST_BIRDS = 400, N_MEASURES = 4, N_SPECIES = 3, WIDTH = N_MEASURES + N_SPECIES };
static const char *const SPECIES[N_SPECIES] = {"Adelie", "Chinstrap", "Gentoo"};

static double x[MOST_BIRDS][WIDTH], is_male[MOST_BIRDS];
static int n_birds;

/* Every fifth bird is kept for the test. */
static int is_test(int k) { return k % 5 == 4; }

static int read_birds(const char *path)
{
    char line[128], species[16], sex[16];
    FILE *file = fopen(path, "r");
    if (!file || !fgets(line, sizeof line, file)) /* the names of the columns */
        return 0;
    for (; n_birds < MOST_BIRDS && fgets(line, sizeof line, file); n_birds++) {
        double *bird = x[n_birds];
        if (sscanf(line, "%15[^,],%lf,%lf,%lf,%lf,%15s", species, &bird[0], &bird[1],
                   &bird[2], &bird[3], sex) != 6)
            return 0;
        for (int s = 0; s < N_SPECIES; s++)
            bird[N_MEASURES + s] = strcmp(species, SPECIES[s]) == 0;
        is_male[n_birds] = strcmp(sex, "male") == 0;
    }
    fclose(file);
    return 1;
}

/* Measures become multiples of their standard deviation from their mean. */
static void standardise(int column)
{
    double n = 0, mean = 0, variance = 0;
    for (int k = 0; k < n_birds; k++)
        if (!is_test(k)) {
            n += 1;
            mean += x[k][column];
        }
    mean /= n;
    for (int k = 0; k < n_birds; k++)
        if (!is_test(k))
            variance += (x[k][column] - mean) * (x[k][column] - mean);
    for (int k = 0; k < n_birds; k++)
        x[k][column] = (x[k][column] - mean) / sqrt(variance / n);
}

static double chance_of_male(const double *bird, const double *weights)
{
    double z = 0;
    for (int j = 0; j < WIDTH; j++)
        z += weights[j] * bird[j];
    return 1 / (1 + exp(-z));
}

int main(void)
{
    double weights[WIDTH] = {0}, rms[WIDTH] = {0}, grad[WIDTH];
    int n_test = 0, n_right = 0;
    if (!read_birds("penguins.csv")) {
        fprintf(stderr, "penguins.csv: cannot be read\n");
        return 1;
    }
    for (int column = 0; column < N_MEASURES; column++)
        standardise(column);

    /* lr, rho, momentum, epsilon, keep, grad_scale, clip */
    const rmsprop_coef_f64 c =
        rmsprop_coef_make_f64(0.01, 0.9, 0.0, 1e-7, 1.0, 1.0, HUGE_VAL);
    for (int epoch = 0; epoch < 300; epoch++) {
        memset(grad, 0, sizeof grad);
        for (int k = 0; k < n_birds; k++)
            if (!is_test(k)) {
                const double error = chance_of_male(x[k], weights) - is_male[k];
                for (int j = 0; j < WIDTH; j++)
                    grad[j] += error * x[k][j];
            }
        /* Neither centered nor momentum, epsilon inside the root. */
        rmsprop_dense_span_f64(weights, grad, rms, NULL, NULL, WIDTH, c, 0, 0, 1);
    }

    for (int k = 0; k < n_birds; k++)
        if (is_test(k)) {
            n_test += 1;
            n_right += (chance_of_male(x[k], weights) > 0.5) == (is_male[k] > 0.5);
        }
    printf("%d penguins learnt from, %d of %d others right\n", n_birds - n_test, n_right,
           n_test);
    FILE *file = fopen("weights.bin", "wb");
    return !file || fwrite(weights, sizeof weights, 1, file) != 1 || fclose(file) != 0;
}
