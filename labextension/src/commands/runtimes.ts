import { ServerConnection } from '@jupyterlab/services';
import { Notification } from '@jupyterlab/apputils';
import { fileUploadIcon } from '@jupyterlab/ui-components';
import type { IImage, IOperation, IRuntime } from '../tokens';
import { bytes } from '../words';
import type { CommandArgs, ICommandContext } from './context';
import { attempt, DESCRIBED } from './context';
import { confirm } from './dialogs';
import { CommandIDs } from './ids';

/**
 * The commands on runtimes.
 */
export function addRuntimeCommands(context: ICommandContext): void {
  const { app, service, store, trans } = context;

  app.commands.addCommand(CommandIDs.build, {
    describedBy: DESCRIBED,
    label: trans.__('Build'),
    caption: trans.__('Build the image of this runtime'),
    isEnabled: ({ runtime }) =>
      store.connection.kind === 'live' &&
      typeof runtime === 'string' &&
      !buildOf(store.operations.values(), runtime),
    execute: ({ runtime }: CommandArgs) =>
      attempt(async () => {
        const name = typeof runtime === 'string' ? runtime : '';
        const image = await store.run<IImage>('build', null, () =>
          service.build(name)
        );
        Notification.success(
          trans.__('%1 is built and takes %2.', name, bytes(image.size)),
          { autoClose: 6000 }
        );
      })
  });

  const cancellable = (runtime: unknown) => {
    const build =
      typeof runtime === 'string' && store.connection.kind === 'live'
        ? buildOf(store.operations.values(), runtime)
        : null;
    return build?.cancellable ? build : null;
  };
  app.commands.addCommand(CommandIDs.cancelBuild, {
    describedBy: DESCRIBED,
    label: trans.__('Cancel'),
    caption: trans.__('End the build of this runtime; nothing of it stays'),
    isEnabled: ({ runtime }) => cancellable(runtime) !== null,
    execute: ({ runtime }: CommandArgs) =>
      attempt(async () => {
        const build = cancellable(runtime);
        if (build) {
          await service.cancel(build.id);
        }
      })
  });

  app.commands.addCommand(CommandIDs.addRuntime, {
    describedBy: DESCRIBED,
    label: trans.__('Add a Sandbox Runtime from a File…'),
    caption: trans.__('Add a runtime from a recipe file (TOML)'),
    icon: fileUploadIcon,
    isEnabled: () => store.connection.kind === 'live',
    execute: () =>
      attempt(async () => {
        const recipe = await chooseFile('.toml');
        if (recipe === null) {
          return;
        }
        const added = await add(recipe);
        if (added) {
          Notification.success(
            trans.__('%1 is there; build it next.', added.display_name),
            { autoClose: 6000 }
          );
        }
      })
  });

  const add = async (recipe: string): Promise<IRuntime | null> => {
    try {
      return await service.addRuntime(recipe, false);
    } catch (error) {
      const exists =
        error instanceof ServerConnection.ResponseError &&
        error.response.status === 409;
      if (!exists) {
        throw error;
      }
      const sure = await confirm(
        trans.__('Replace the recipe?'),
        error.message,
        trans.__('Replace')
      );
      return sure ? service.addRuntime(recipe, true) : null;
    }
  };
}

/**
 * The build of a runtime that is under way.
 */
export function buildOf(
  operations: Iterable<IOperation>,
  runtime: string
): IOperation | null {
  for (const each of operations) {
    const same = each.verb === 'build' && each.runtime === runtime;
    if (same && each.state === 'running') {
      return each;
    }
  }
  return null;
}

function chooseFile(accept: string): Promise<string | null> {
  return new Promise((resolve, reject) => {
    const input = document.createElement('input');
    input.type = 'file';
    input.accept = accept;
    input.oncancel = () => {
      resolve(null);
    };
    input.onchange = () => {
      const file = input.files?.[0];
      if (file) {
        file.text().then(resolve, reject);
      } else {
        resolve(null);
      }
    };
    input.click();
  });
}
